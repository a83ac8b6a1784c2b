"""The fault campaign: seeded downloads from origins that fail, each judged by three promises.

1. What a client takes for success, in one answer or resumed, is byte for byte what sources hold.
2. What fails ends short of its Content-Length, and what was received is a prefix of the archive.
3. When it fails because of an origin, GNU tar in a pipe exits non-zero.

`kinds` says what can go wrong, where, and what is promised then; `cases` makes downloads of it;
`run` runs them in a `house`; `judge` compares. docs/campaign.md tells how to use it.
"""
