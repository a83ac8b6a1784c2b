"""Guards against origins: what they answer, how long they take, and where they lead."""

from guards.guard import Edit, Guard

_ADDRESSES = "tarstream/stores/addresses.py"
_GUARD = "tarstream/stores/guard.py"
_BYPASS = "tarstream/stores/bypass.py"
_EXCHANGE = "tarstream/stores/exchange.py"
_HTTP = "tarstream/stores/http.py"
_RETRY = "tarstream/stores/retry.py"
_VALIDATORS = "tarstream/stores/validators.py"

_OPENS = "test_store_http.py::test_what_open_makes_of_an_answer"
_HEADS = "test_store_http.py::test_what_head_makes_of_an_answer"
_PRIVATE = ("test_addresses.py::test_a_private_address_is_for_hosts_that_are_named",)
_SPECIAL = ("test_addresses.py::test_a_special_address_is_for_its_literal_alone",)

ORIGINS = (
    # What is asked
    Guard(
        "identity",
        "origins are free to compress, and sizes and ranges mean something else",
        (Edit(_HTTP, '"Accept-Encoding": "identity", ', ""),),
        ("test_store_http.py::test_requests_carry_what_they_need_and_nothing_of_anybody",),
    ),
    Guard(
        "nothing-decoded",
        "what an origin has compressed is decoded, a little of it to gigabytes",
        (Edit(_EXCHANGE, "                auto_decompress=False,\n", ""),),
        ("test_guarded_origins.py::test_what_an_origin_has_coded_is_not_decoded",),
    ),
    Guard(
        "coding-refused",
        "coded bytes are taken for the object's",
        (
            Edit(
                _HTTP,
                "if codings and not set(",
                "if False and not set(",
            ),
        ),
        (f"{_OPENS}[coded]", f"{_OPENS}[coded twice]", f"{_HEADS}[coded]"),
    ),
    Guard(
        "coding-in-several-lines",
        "of several Content-Encoding lines only the first is looked at",
        (
            Edit(
                _HTTP,
                'answer.headers.getall("Content-Encoding", None)',
                '[answer.headers.get("Content-Encoding", "")]',
            ),
        ),
        (f"{_OPENS}[coded twice]", f"{_HEADS}[coded twice]"),
    ),
    Guard(
        "head-refused",
        "a URL that is signed for GET is forbidden to HEAD, and passes for missing",
        (
            Edit(
                _HTTP,
                "_HEAD_REFUSED = frozenset({400, 401, 403, 405, 406, 501})",
                "_HEAD_REFUSED = frozenset()",
            ),
        ),
        (f"{_HEADS}[HEAD 403]",),
    ),
    Guard(
        "first-byte-alone",
        "asking for one byte fetches the rest of the object where Range is ignored",
        (
            Edit(
                _HTTP,
                "            total = _total(answer)\n",
                "            await answer.content.read()\n            total = _total(answer)\n",
            ),
        ),
        ("test_store_http.py::test_the_first_byte_that_is_asked_for_does_not_fetch_the_rest",),
    ),
    Guard(
        "kept-bytes",
        "what came while a connection was kept is taken for the answer to the next request",
        (Edit(_EXCHANGE, " or protocol.should_close:", ":"),),
        ("test_exchange.py::test_bytes_that_come_while_it_is_kept_are_not_taken_for_an_answer",),
    ),
    Guard(
        "taken-over",
        "whoever reads what is left of an answer resumes a connection that the kernel is moving",
        (
            Edit(_BYPASS, "protocol.transport = None", "pass"),
            Edit(_BYPASS, "if answer.content.total_bytes != read:", "if False:"),
        ),
        ("test_splice.py::test_whoever_had_a_connection_before_does_not_read_from_it",),
    ),
    Guard(
        "read-by-two",
        "bytes that somebody else read are missing in the middle, and the length is right",
        (Edit(_BYPASS, "if answer.content.total_bytes != read:", "if False:"),),
        ("test_splice.py::test_what_somebody_else_read_is_asked_for_anew",),
    ),
    Guard(
        "written-before-pipe",
        "what still waits to be written comes behind what the kernel has moved",
        (
            Edit(
                "tarstream/response.py",
                "if self._connected().get_write_buffer_size():",
                "if False:",
            ),
        ),
        ("test_splice.py::test_what_still_waits_to_be_written_goes_before",),
    ),
    Guard(
        "files-are-copied",
        "what is written to a file in place while it is on its way arrives in its stead",
        (
            Edit(
                "tarstream/stores/file.py",
                "sink.splice() if self._sendfile and large else None",
                "sink.splice() if large else None",
            ),
        ),
        ("test_sendfile.py::test_they_are_read_and_written_unless_that_is_asked_for",),
    ),
    Guard(
        "line-breaks",
        "a value with a line break in it becomes header fields of its own",
        (Edit(_EXCHANGE, "if any(map(_BREAKING.search, lines)):", "if False:"),),
        ("test_exchange.py::test_what_would_break_out_of_a_header_is_not_sent",),
    ),
    Guard(
        "exact-url",
        "a signed URL is sent in another spelling than was signed",
        (Edit(_EXCHANGE, "source if _ENCODED.fullmatch(source) else str(", "str("),),
        ("test_store_http.py::test_a_url_is_sent_byte_for_byte",),
    ),
    # How long it takes
    Guard(
        "read-timeout",
        "an origin that falls silent is waited for",
        (Edit(_HTTP, "            sock_read=read_timeout,\n", ""),),
        ("test_store_http.py::test_an_origin_that_falls_silent_is_too_slow",),
    ),
    Guard(
        "min-rate",
        "an origin that drips a byte at a time is waited for",
        (
            Edit(
                _RETRY,
                "if self._came < self._pace.min_rate * self._waited:",
                "if False:",
            ),
        ),
        ("test_retry.py::test_an_origin_that_only_drips_is_given_up",),
    ),
    Guard(
        "lost-connection",
        "a body whose connection is gone is waited for until the client leaves",
        (
            Edit(
                _HTTP,
                "if not content.is_eof() and content.exception() is None:",
                "if False:",
            ),
        ),
        (f"{_OPENS}[broken chunk]",),
    ),
    Guard(
        "progress",
        "an origin that gives 1,000 bytes and breaks off is opened thousands of times",
        (
            Edit(
                _RETRY,
                "self._failed = 0 if brought >= PROGRESS else",
                "self._failed = 0 if brought else",
            ),
        ),
        ("test_retry.py::test_tries_that_bring_next_to_nothing_are_counted",),
    ),
    Guard(
        "counted-anew",
        "a long member with many small breaks dies, though each try helped",
        (
            Edit(
                _RETRY,
                "self._failed = 0 if brought >= PROGRESS else self._failed + 1",
                "self._failed = self._failed + 1",
            ),
        ),
        ("test_retry.py::test_progress_starts_the_count_of_tries_again",),
    ),
    Guard(
        "tries-end",
        "an origin that brings nothing is asked again and again",
        (Edit(_RETRY, "if self._failed >= self._attempts or self", "if self"),),
        ("test_retry.py::test_tries_that_bring_next_to_nothing_are_counted",),
    ),
    Guard(
        "retry-after-heeded",
        "an origin that asks to be left alone is asked again at once",
        (Edit(_RETRY, "pause = max(pause, error.retry_after or 0)", "pass"),),
        ("test_retry.py::test_an_origin_is_left_alone_for_as_long_as_it_asks",),
    ),
    Guard(
        "opened-again",
        "a member that its origin closed while it waited for its turn is lost",
        (Edit(_RETRY, "if self._failed >= self._attempts or self", "if True or self"),),
        ("test_retry.py::test_what_an_origin_closed_while_it_waited_is_opened_again",),
    ),
    # What is answered
    Guard(
        "ends-early",
        "a body that ends at the close ends without an error, however early",
        (Edit(_HTTP, 'raise OriginBroken("its origin ends it early")', "return"),),
        (f"{_OPENS}[FIN, close-delimited]", f"{_OPENS}[shorter, chunked]"),
    ),
    Guard(
        "more-than-planned",
        "what comes after the planned end is cut off in silence",
        (
            Edit(
                _HTTP,
                "if len(chunk) > self._left or await self._read(sink):",
                "if False:",
            ),
        ),
        (f"{_OPENS}[longer, chunked]", f"{_OPENS}[longer, close-delimited]"),
    ),
    Guard(
        "length-of-the-whole",
        "an answer of another length than was planned is taken",
        (Edit(_HTTP, "if length and int(length) != size:", "if False:"),),
        (f"{_OPENS}[longer]", f"{_OPENS}[said to be shorter]"),
    ),
    Guard(
        "range-ignored",
        "the beginning of the whole is taken for the part that was asked for",
        (
            Edit(
                _HTTP,
                'raise ObjectChanged(f"it has {length} bytes instead of {size}")\n    return start',
                'raise ObjectChanged(f"it has {length} bytes instead of {size}")\n    return 0',
            ),
        ),
        (f"{_OPENS}[Range ignored]",),
    ),
    Guard(
        "part-not-asked-for",
        "a part is taken where the whole was asked for",
        (Edit(_HTTP, "        if span.is_whole:\n", "        if False:\n"),),
        (f"{_OPENS}[a part for the whole]",),
    ),
    Guard(
        "content-range",
        "another part is taken than was asked for",
        (
            Edit(
                _HTTP,
                "if (int(match[1]), int(match[2]) + 1) != (start, stop):",
                "if False:",
            ),
        ),
        (f"{_OPENS}[another first-pos]", f"{_OPENS}[shifted]"),
    ),
    Guard(
        "total",
        "a part of an object of another size is taken",
        (Edit(_HTTP, "if int(match[3]) != size:", "if False:"),),
        (f"{_OPENS}[another total]",),
    ),
    Guard(
        "length-of-a-part",
        "a part that is said to be longer or shorter than it is, is taken",
        (Edit(_HTTP, "if length and int(length) != stop - start:", "if False:"),),
        (f"{_OPENS}[part said to be longer]", f"{_OPENS}[part said to be shorter]"),
    ),
    Guard(
        "multipart",
        "parts with their own headers are taken for the object's bytes",
        (
            Edit(
                _HTTP,
                '            raise OriginError("its origin gives a part without saying which")\n',
                "            return 0\n",
            ),
        ),
        (f"{_OPENS}[multipart]", f"{_OPENS}[no Content-Range]"),
    ),
    Guard(
        "416",
        "an object that has become shorter is taken for an origin that may recover",
        (Edit(_HTTP, "if answer.status in {412, 416}:", "if answer.status == 412:"),),
        (f"{_OPENS}[416]", f"{_OPENS}[unsatisfiable]"),
    ),
    Guard(
        "412",
        "an object that has changed is taken for an origin that may recover",
        (Edit(_HTTP, "if answer.status in {412, 416}:", "if answer.status == 416:"),),
        (f"{_OPENS}[412]",),
    ),
    Guard(
        "if-match",
        "an origin is not even asked for the version that was planned",
        (Edit(_HTTP, "headers = conditions(self._validator)", "headers = {}"),),
        ("test_store_http.py::test_only_a_strong_validator_is_a_condition",),
    ),
    Guard(
        "if-match-ignored",
        "an origin that ignores If-Match gives another version, which is taken",
        (Edit(_HTTP, "if contradicts(self._validator, answer.headers):", "if False:"),),
        (f"{_OPENS}[replaced unnoticed]", f"{_OPENS}[another entity-tag]"),
    ),
    Guard(
        "no-proof",
        "an answer without the validator is taken for the version that was planned",
        (
            Edit(
                _VALIDATORS,
                "    return _named(validator, headers) != validator",
                "    return _named(validator, headers) not in {None, validator}",
            ),
        ),
        (f"{_OPENS}[no entity-tag]",),
    ),
    Guard(
        "weak-not-continued",
        "what has no strong validator is continued, perhaps with another version",
        (Edit(_RETRY, "continuable=is_strong(validator)", "continuable=True"),),
        ("test_retry.py::test_without_a_strong_validator_nothing_is_continued",),
    ),
    Guard(
        "repair-offset",
        "what broke off is begun again at another byte",
        (
            Edit(
                _RETRY,
                "self._open(sink.position - base)",
                "self._open(self._start)",
            ),
        ),
        ("test_retry.py::test_a_break_is_repaired_at_the_byte_where_it_was",),
    ),
    # Where it leads
    Guard(
        "credentials-stay",
        "what proves to one origin who we are is sent to another",
        (
            Edit(
                "tarstream/stores/credentials.py",
                "fields = self._of.get(_origin(url)) if self._of else None",
                "fields = next(iter(self._of.values()), None)",
            ),
        ),
        (
            "test_credentials.py::test_a_redirect_to_another_origin_loses_it",
            "test_credentials.py::test_nobody_else_does",
        ),
    ),
    Guard(
        "strangers",
        "a redirect to another origin has us read with our credentials what is private there",
        (
            Edit(
                "tarstream/stores/exchange.py",
                "stranger = isinstance(source, Elsewhere)",
                "stranger = False",
            ),
        ),
        (
            "test_credentials.py::test_no_origin_can_have_us_read_what_is_private_at_another_one",
            "test_credentials.py::test_a_redirect_to_another_origin_loses_it",
        ),
    ),
    Guard(
        "min-rate-counts",
        "an origin that is too slow is asked again without end, as long as it brings enough",
        (
            Edit(
                "tarstream/stores/retry.py",
                "self.too_slow = self._came",
                "pass",
            ),
        ),
        ("test_retry.py::test_what_comes_too_slowly_is_no_progress_however_much_it_is",),
    ),
    Guard(
        "redirects-end",
        "redirects in a circle are followed for ever",
        (Edit(_GUARD, "\nMAX_REDIRECTS = 5\n", "\nMAX_REDIRECTS = 1_000_000\n"),),
        ("test_errors.py::test_redirects_without_end_are_502",),
    ),
    Guard(
        "redirects-checked",
        "a redirect leads to where no source may come from",
        (
            Edit(
                _GUARD,
                "        rule = self._policy.rule(source)\n        return",
                "        rule = self._policy.rules[0]\n        return",
            ),
        ),
        ("test_guard.py::test_a_redirect_to_what_is_not_allowed_is_forbidden_at_every_hop",),
    ),
    Guard(
        "userinfo",
        "`user:pw@` in a URL becomes an Authorization header",
        (Edit(_GUARD, r"[A-Za-z0-9.:\[\]_~\-\u0080", r"[A-Za-z0-9.:@\[\]_~\-\u0080"),),
        (
            "test_guard.py::test_a_source_that_the_configuration_does_not_list_is_forbidden",
            "test_guard.py::test_a_redirect_elsewhere_is_forbidden",
        ),
    ),
    Guard(
        "final-address",
        "a name that leads to loopback or to a private address is connected to",
        (Edit(_HTTP, "limit=0, socket_factory=socket_factory, ", "limit=0, "),),
        (
            "test_guard.py::test_a_wildcard_leads_to_global_addresses_only",
            "test_guard.py::test_a_host_is_judged_by_the_address_it_has_when_it_is_connected_to",
        ),
    ),
    Guard(
        "literals",
        "literals and other spellings of loopback, which no resolver sees, are connected to",
        (
            Edit(
                _HTTP,
                "limit=0, socket_factory=socket_factory, ",
                "limit=0, resolver=_Refusing(socket_factory), ",
            ),
            Edit(
                _HTTP,
                "def session(\n",
                "class _Refusing(aiohttp.ThreadedResolver):\n"
                "    def __init__(self, factory):\n"
                "        super().__init__()\n"
                "        self._factory = factory\n"
                "\n"
                "    async def resolve(self, host, port=0, family=0):\n"
                "        found = await super().resolve(host, port, family)\n"
                "        for each in found:\n"
                '            address = (each["host"], each["port"])\n'
                '            self._factory((each["family"], 1, 6, "", address)).close()\n'
                "        return found\n"
                "\n"
                "\n"
                "def session(\n",
            ),
        ),
        ("test_guarded_origins.py::test_an_address_is_judged_however_it_is_written",),
    ),
    Guard(
        "is-global",
        "64:ff9b::7f00:1, 2002:7f00:1:: and ::127.0.0.1 lead to loopback; Python calls them global",
        (
            Edit(_ADDRESSES, "inner = _embedded(outer)", "inner = outer"),
            Edit(
                _ADDRESSES,
                "    if isinstance(address, IPv6Address) and "
                "(address not in _GLOBAL_UNICAST or address in _TEREDO):\n"
                "        return False\n",
                "",
            ),
        ),
        (f"{_PRIVATE[0]}[64:ff9b::7f00:1]", f"{_PRIVATE[0]}[::127.0.0.1]"),
    ),
    Guard(
        "nat64",
        "64:ff9b::a9fe:a9fe leads to 169.254.169.254, where clouds keep their secrets",
        (Edit(_ADDRESSES, '    IPv6Network("64:ff9b::/96"),  # RFC 6052\n', ""),),
        _SPECIAL,
    ),
    Guard(
        "6to4",
        "2002:7f00:1:: leads to loopback",
        (
            Edit(
                _ADDRESSES,
                "    if address.sixtofour is not None:\n        return address.sixtofour\n",
                "",
            ),
        ),
        (f"{_PRIVATE[0]}[2002:7f00:1::]",),
    ),
    Guard(
        "ipv4-mapped",
        "::ffff:169.254.169.254 leads to where clouds keep their secrets",
        (
            Edit(
                _ADDRESSES,
                "    if address.ipv4_mapped is not None:\n        return address.ipv4_mapped\n",
                "",
            ),
        ),
        _SPECIAL,
    ),
    Guard(
        "ipv4-compatible",
        "::169.254.169.254 leads to where clouds keep their secrets",
        (Edit(_ADDRESSES, '    IPv6Network("::/96"),  # RFC 4291 2.5.5.1\n', ""),),
        _SPECIAL,
    ),
    Guard(
        "site-local",
        "fec0::1 is of somebody's own network, and Python calls it global",
        (Edit(_ADDRESSES, "address not in _GLOBAL_UNICAST or ", ""),),
        _PRIVATE,
    ),
    Guard(
        "multicast",
        "multicast addresses are connected to, and Python calls them global",
        (
            Edit(
                _ADDRESSES,
                "address.is_link_local or address.is_multicast or",
                "address.is_link_local or",
            ),
        ),
        _SPECIAL,
    ),
    Guard(
        "link-local",
        "link-local addresses, where clouds keep their secrets, are connected to",
        (
            Edit(
                _ADDRESSES,
                "address.is_link_local or address.is_multicast or",
                "address.is_multicast or",
            ),
        ),
        _SPECIAL,
    ),
    Guard(
        "unspecified",
        "0.0.0.0, which Linux connects to itself, is connected to",
        (
            Edit(_ADDRESSES, " or address.is_unspecified:", ":"),
            Edit(
                _ADDRESSES,
                "(address in _THIS_NETWORK or address == _BROADCAST)",
                "address == _BROADCAST",
            ),
        ),
        _SPECIAL,
    ),
)
