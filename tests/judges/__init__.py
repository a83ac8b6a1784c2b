"""Judges of this gateway that others wrote: httplint and REDbot, varnishtest, slowhttptest.

What each of them is asked, and what it found, stands in docs/judges.md.
"""
