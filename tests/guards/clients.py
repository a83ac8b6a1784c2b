"""Guards of what clients are told, and of what they may ask."""

from guards.guard import Edit, Guard

_APP = "tarstream/app.py"
_CONDITIONAL = "tarstream/conditional.py"
_QUERY = "tarstream/query.py"
_DISPOSITION = "tarstream/disposition.py"
_RESPONSE = "tarstream/response.py"

CLIENTS = (
    Guard(
        "head-without-body",
        "what is written in answer to HEAD goes out, and is read as the next answer",
        (
            Edit(
                _APP,
                '        if request.method == "HEAD":\n'
                "            return _head(headers, archive.size if kind.coding is None else None)"
                "\n",
                "",
            ),
        ),
        ("test_framing.py::test_head_has_not_one_byte_of_body",),
    ),
    Guard(
        "head-of-a-plan",
        "the body of a plan goes out in answer to HEAD",
        (
            Edit(
                _APP,
                '        if request.method == "HEAD":\n'
                "            return _head(headers, length, status)\n",
                "",
            ),
        ),
        ("test_guarded_clients.py::test_head_of_whatever_there_is_has_not_one_byte_of_body",),
    ),
    Guard(
        "encoded-commas",
        "libraries and forms encode commas, and many ids become one that nobody knows",
        (
            Edit(
                _QUERY,
                "parse_qsl(text, keep_blank_values",
                'parse_qsl(text.replace("%2C", "%252C"), keep_blank_values',
            ),
        ),
        (
            "test_archive.py::test_commas_separate_ids_encoded_or_not_and_order_and_repetition_are_kept",
            "test_query.py::test_ids_stand_in_the_order_in_which_they_are_given",
        ),
    ),
    Guard(
        "several-lines",
        "of a header that comes in several lines only the first is looked at",
        (Edit(_CONDITIONAL, 'return ", ".join(lines).strip(_OWS)', "return lines[0].strip(_OWS)"),),
        (
            "test_archive.py::test_ranges_over_several_lines_are_several_ranges",
            "test_framing.py::test_several_range_lines_are_several_ranges",
        ),
    ),
    Guard(
        "if-range",
        "an entity-tag in If-Range is not seen: a part of another archive than the client has",
        (
            Edit(
                _CONDITIONAL,
                'if _field_value(headers, "If-Range") not in {None, strong}:',
                "if False:",
            ),
        ),
        ("test_archive.py::test_if_range_with_anything_else_gives_the_whole",),
    ),
    Guard(
        "last-0-bytes",
        "bytes=-0, which is no byte, is taken for all of them",
        (
            Edit(
                _CONDITIONAL,
                "max(size - _number(suffix, size), 0), size",
                "max(size - (_number(suffix, size) or size), 0), size",
            ),
        ),
        (
            "test_archive.py::test_a_range_that_selects_nothing_is_416",
            "test_conditional.py::test_range",
        ),
    ),
    Guard(
        "several-ranges",
        "of several ranges one is answered as if it were all",
        (Edit(_CONDITIONAL, "if len(range_specs) > 1:", "if False:"),),
        ("test_archive.py::test_several_ranges_and_other_units_get_the_whole",),
    ),
    Guard(
        "version",
        "`curl -C -`, `wget -c` and `aria2c` splice two versions of the same size",
        (Edit(_APP, "if asked.version in {None, archive.tag}:", "if True:"),),
        (
            "test_archive.py::test_a_version_that_the_sources_do_not_give_is_409",
            "test_archive.py::test_a_pinned_download_of_changed_sources_is_409_and_never_other_bytes",
        ),
    ),
    Guard(
        "strong-etag",
        "browsers do not resume without a strong entity-tag",
        (Edit("tarstream/layout.py", "f'\"{tag}\"' if strong", "f'W/\"{tag}\"' if strong"),),
        (
            "test_archive.py::test_a_successful_answer_has_exactly_these_headers",
            "test_layout.py::test_an_archive_is_validated_as_well_as_its_weakest_member",
        ),
    ),
    Guard(
        "weak-stays-weak",
        "an archive is called strong though nothing proves that its members are the same",
        (
            Edit(
                "tarstream/layout.py",
                "            elif not is_strong(validator):\n                strong = False\n",
                "",
            ),
        ),
        (
            "test_archive.py::test_a_weak_member_makes_the_archive_weak_and_every_range_the_whole",
            "test_layout.py::test_an_archive_is_validated_as_well_as_its_weakest_member",
        ),
    ),
    Guard(
        "content-length",
        "without Content-Length a stock nginx passes on a body that was cut as a whole one",
        (Edit(_RESPONSE, "        self.content_length = length\n", ""),),
        ("test_archive.py::test_a_successful_answer_has_exactly_these_headers",),
    ),
    Guard(
        "x-accel-buffering",
        "a stock nginx takes an archive as fast as it can, onto its disk",
        (Edit(_RESPONSE, '        "X-Accel-Buffering": "no",\n', ""),),
        ("test_archive.py::test_a_successful_answer_has_exactly_these_headers",),
    ),
    Guard(
        "no-transform",
        "a proxy on the way may compress, and take length and ranges away",
        (Edit(_RESPONSE, '"no-cache, no-transform"', '"no-cache"'),),
        ("test_archive.py::test_a_successful_answer_has_exactly_these_headers",),
    ),
    Guard(
        "request-line",
        "a list of 200 ids is a request line too long",
        (Edit(_APP, "        max_line_size=MAX_LINE,\n", ""),),
        ("test_framing.py::test_lines_of_32_kib_are_taken",),
    ),
    Guard(
        "post",
        "a list that outgrows a URL cannot be asked for at all",
        (Edit(_APP, "            app.router.add_post(path, self._archive)\n", ""),),
        ("test_post.py::test_thousands_of_ids_are_taken",),
    ),
    Guard(
        "coded-post",
        "a body of some kilobytes is decoded to gigabytes",
        (Edit(_APP, "        auto_decompress=False,\n", ""),),
        ("test_post.py::test_a_coded_body_is_415_and_is_not_decoded",),
    ),
    Guard(
        "crlf-in-name",
        "CR or LF in a name gets into a header, and the connection drops without an answer",
        (
            Edit(_DISPOSITION, 'return segment(f"{stem}.{suffix}")', 'return f"{stem}.{suffix}"'),
            Edit(_QUERY, "return format_, segment(name),", "return format_, name,"),
            Edit(
                _DISPOSITION,
                """if " " <= c <= "~" and c not in '"\\\\%;' else "_\"""",
                """if c not in '"\\\\%;' else "_\"""",
            ),
        ),
        ("test_security_http.py::test_no_character_of_a_name_reaches_a_header_raw",),
    ),
    Guard(
        "crlf-in-request-id",
        "an X-Request-Id that is not sane is handed on in headers and logs",
        (
            Edit(
                "tarstream/request.py",
                "given if _REQUEST_ID.fullmatch(given) else uuid",
                "given or uuid",
            ),
        ),
        (
            "test_archive.py::test_any_other_request_id_is_replaced",
            "test_security_http.py::test_no_character_of_a_request_id_reaches_a_header_raw",
        ),
    ),
    Guard(
        "quotes-in-name",
        "a quote in a name ends the file name that a browser reads, and begins a parameter",
        (Edit(_DISPOSITION, """and c not in '"\\\\%;' else""", "else"),),
        (
            "test_content_disposition.py::test_the_name_is_read_as_it_was_meant",
            "test_archive.py::test_the_download_is_named_for_old_clients_and_for_rfc_8187",
        ),
    ),
    Guard(
        "non-ascii-name",
        "characters beyond ASCII go out raw in Content-Disposition",
        (
            Edit(
                _DISPOSITION, """if " " <= c <= "~" and c not in""", """if " " <= c and c not in"""
            ),
        ),
        ("test_archive.py::test_the_download_is_named_for_old_clients_and_for_rfc_8187",),
    ),
    Guard(
        "encoded-name",
        "`filename*` holds what RFC 8187 does not allow in it",
        (Edit(_DISPOSITION, 'quote(name, safe="!#$&+^`|~")', "name"),),
        ("test_archive.py::test_the_download_is_named_for_old_clients_and_for_rfc_8187",),
    ),
    Guard(
        "single-flight",
        "a client that opens sixteen ranges asks origins sixteen times for the same",
        (
            Edit(
                "tarstream/memory.py",
                "        flight = self._flights.get(source)\n        if flight is None:\n"
                "            task",
                "        flight = None\n        if flight is None:\n            task",
            ),
        ),
        ("test_resolve.py::test_who_asks_the_same_at_the_same_time_shares_the_answer",),
    ),
    Guard(
        "remember",
        "every range of an archive asks origins for all of its members again",
        (
            Edit(
                "tarstream/resolve.py", "        await self._memory.put_many({source: meta})\n", ""
            ),
        ),
        ("test_resolve.py::test_what_an_origin_said_is_used_again_until_it_is_forgotten",),
    ),
    Guard(
        "forget",
        "what an origin has contradicted is remembered all the same",
        (
            Edit(
                "tarstream/download.py",
                "                await self._archives.forget(failed.member)\n",
                "                pass\n",
            ),
        ),
        ("test_errors.py::test_what_changed_since_it_was_asked_about_is_planned_once_more",),
    ),
    Guard(
        "retry-after",
        "who is turned away is not told when to come back, and comes back at once",
        (
            Edit(
                _APP,
                '            headers["Retry-After"] = str(error.retry_after)\n',
                "            pass\n",
            ),
        ),
        (
            "test_errors.py::test_a_full_gateway_is_503_until_there_is_room",
            "test_errors.py::test_a_draining_gateway_is_503",
        ),
    ),
    Guard(
        "max-archives",
        "more archives than there is room for are begun",
        (Edit("tarstream/admission.py", "if len(self._busy) >= self._limit:", "if False:"),),
        ("test_errors.py::test_a_full_gateway_is_503_until_there_is_room",),
    ),
    Guard(
        "parser-in-c",
        "another parser than the one that was tried reads requests and answers, and slowly",
        (Edit("server.py", "if _parses_in_python():", "if False:"),),
        ("test_security.py::test_without_the_parser_in_c_it_does_not_start[extension-arguments4]",),
    ),
    Guard(
        "aiohttp-version",
        "a hostile origin crashes the parser of an older aiohttp",
        (Edit("pyproject.toml", '"aiohttp>=3.14.4,<4"', '"aiohttp>=3.14,<4"'),),
        ("test_security.py::test_no_version_of_aiohttp_is_allowed_that_an_origin_can_crash",),
    ),
    Guard(
        "loop-factory",
        "an event loop policy is set for the whole process, which Python will no longer have",
        (
            Edit(
                "server.py",
                "        loop_factory = uvloop.new_event_loop\n",
                "        uvloop.install()\n        loop_factory = None\n",
            ),
        ),
        ("test_guarded_clients.py::test_no_policy_is_set_for_event_loops",),
    ),
)
