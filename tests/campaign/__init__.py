"""The fault campaign: seeded downloads from origins that fail, each judged by three promises.

1. What a client takes for success, in one answer or resumed, is byte for byte what sources hold.
2. What fails ends short of its Content-Length, or without the end of its compression, and what was
   received is a prefix of the archive.
3. When it fails because of an origin, the format's readers (GNU tar in a pipe, unzip) say so.

`kinds` says what can go wrong, where, and what is promised then; `cases` makes downloads of it;
`run` runs them in a `house`; `judge` compares. docs/campaign.md tells how to use it.
"""
