"""hakurun's own part: spans, plans of combinations, running them, and the journal of a sweep."""
