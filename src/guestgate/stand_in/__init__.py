"""Answering while the shared database cannot: each node's own copy of what decisions rest on.

`copy` is the file, `follower` keeps it level with the shared record, `rules` say what may be decided on it,
`reconciliation` carries what was decided over, and `process` is where following and carrying over run.
"""
