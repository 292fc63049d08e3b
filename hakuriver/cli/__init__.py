"""The commands: a module for each, by its name; what is too much for it is in a folder.

`tasks` is behind ``hakuriver.client``, `sweep` behind ``hakurun``, `setup` behind
``hakuriver.init``, ``hakuriver token`` and ``hakuriver.runner --join``, `services` behind
``hakuriver.init service``. None of these needs another; `shared` is below them all, and serves the
notebook's magics too.
"""
