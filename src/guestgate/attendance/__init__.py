"""What happened at the door after the answer: who came in, who left, and whose customer is whose.

The platform tells it by webhooks, which may be lost, doubled, late and in any order, and by its history, which may
be asked. What a visit's state and a customer's link are follows from the *set* of what was told and decided
(`matching`, `links`), so it does not matter how it arrived.
"""
