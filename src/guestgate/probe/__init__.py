"""The probe: does an endpoint, ours or anybody's, keep the platform's contract?

`clauses` says what is asked; `transport`, `checks` (for `answers` and `members`) and `latency` ask it, `run` does so
in order, and `report` and `junit` tell what came of it. Whatever an endpoint does, each question is bounded in time
and memory, and the studio's key goes only to a server whose certificate is trusted.
"""
