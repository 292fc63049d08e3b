"""What a program or a person uses: the asynchronous client, and the synchronous face on it."""
