"""Guards of an archive on its way: where it may end, how it ends, and who waits for whom."""

from guards.guard import Edit, Guard

_APP = "tarstream/app.py"
_DOWNLOAD = "tarstream/download.py"
_EXCHANGE = "tarstream/stores/exchange.py"
_HTTP = "tarstream/stores/http.py"
_BYPASS = "tarstream/stores/bypass.py"
_LIMIT = "tarstream/stores/limit.py"
_RESPONSE = "tarstream/response.py"
_RETRY = "tarstream/stores/retry.py"
_TRANSFER = "tarstream/transfer.py"

STREAM = (
    # Where it may end
    Guard(
        "padding-with-header",
        "padding leaves before the next header: a cut behind it passes for the end of a tar",
        (
            Edit(
                _TRANSFER,
                "                    self._take(piece)\n",
                "                    self._take(piece)\n"
                "                    await self._pass_on()\n",
            ),
        ),
        (
            "test_loud_failure.py::test_no_write_ends_between_two_members",
            "test_transfer.py::test_any_slice_arrives_and_no_write_ends_at_a_boundary",
        ),
    ),
    Guard(
        "last-chunk-with-header",
        "the last chunk of a member leaves before the next header: a cut behind it passes",
        (
            Edit(
                _TRANSFER,
                "if self._gathered and self.position != self._owed_until:",
                "if self._gathered:",
            ),
        ),
        (
            "test_transfer.py::test_any_slice_arrives_and_no_write_ends_at_a_boundary",
            "test_transfer.py::test_a_member_that_turns_out_wrong_at_its_end_is_not_finished",
        ),
    ),
    Guard(
        "header-before-opening",
        "a member is waited for while its header is held back: the client hears nothing",
        (
            Edit(
                _RETRY,
                "                    if not self._opening.done():\n"
                "                        await watched.flush()\n",
                "",
            ),
        ),
        ("test_guarded_stream.py::test_a_header_leaves_before_its_contents_are_waited_for",),
    ),
    Guard(
        "owed-header",
        "a member that cannot be opened is not begun: the archive ends before it, as if whole",
        (
            Edit(
                _TRANSFER,
                "return gathered if surplus < 0 else gathered[",
                'return b"" if surplus < 0 else gathered[',
            ),
        ),
        (
            "test_guarded_stream.py::test_a_member_that_is_known_to_be_missing_is_begun_and_not_given",
        ),
    ),
    Guard(
        "digest-held-back",
        "a member whose digest turns out wrong was sent to its end: the cut falls on a boundary",
        (
            Edit(
                _TRANSFER,
                "return gathered if surplus < 0 else "
                "gathered[: max(len(gathered) - surplus - 1, 0)]",
                "return gathered",
            ),
        ),
        (
            "test_transfer.py::test_a_member_that_turns_out_wrong_at_its_end_is_not_finished",
            "test_transfer.py::test_wherever_it_ends_the_cut_is_inside_contents",
        ),
    ),
    Guard(
        "digest",
        "contents that are not what the catalog states are sent as if they were",
        (Edit("tarstream/digests.py", "if self.stated not in {None, value}:", "if False:"),),
        (
            "test_archive.py::test_a_wrong_digest_breaks_the_download_inside_the_member",
            "test_transfer.py::test_a_member_that_turns_out_wrong_at_its_end_is_not_finished",
        ),
    ),
    Guard(
        "digest-of-nothing",
        "of an empty file a wrong digest is believed: nothing passes that could disprove it",
        (
            Edit(
                "tarstream/asking.py",
                "for algorithm, digest in () if size else stated.digests:",
                "for algorithm, digest in ():",
            ),
        ),
        ("test_resolve.py::test_an_empty_file_with_a_digest_that_none_has_is_502",),
    ),
    Guard(
        "checksums-not-read-for",
        "a range with checksums in it reads all members from their origins before its first byte",
        (
            Edit(
                "tarstream/digests.py",
                "if key.algorithm != deferred or size > budget:",
                "if size > budget:",
            ),
        ),
        ("test_digests.py::test_only_what_is_deferred_is_read_unsent_within_the_budget",),
    ),
    Guard(
        "lists-not-remembered",
        "what is remembered of a list of checksums keeps all members of its archive alive",
        (
            Edit(
                "tarstream/digests.py",
                "if is_strong(member.validator) and isinstance(member.source, str | Path):",
                "if is_strong(member.validator):",
            ),
        ),
        ("test_digests.py::test_what_is_remembered_is_of_sources_that_the_next_archive_has_too",),
    ),
    Guard(
        "unbounded-held-back",
        "the last chunk of a body without a length is passed on before its end is proven",
        (
            Edit(
                _HTTP,
                "if self._unbounded and len(chunk) >= self._left:",
                "if False:",
            ),
        ),
        (
            "test_retry.py::test_a_break_at_the_last_byte_of_a_chunked_object_is_repaired",
            "test_store_http.py::test_what_open_makes_of_an_answer[no last chunk]",
            "test_store_http.py::test_what_open_makes_of_an_answer[longer, chunked]",
        ),
    ),
    Guard(
        "cut-at-shutdown",
        "a download that is cut at shutdown ends wherever its client's connection stopped",
        (Edit(_DOWNLOAD, "await response.linger(transfer.abort())", "pass"),),
        (
            "test_drain.py::test_a_slow_client_that_is_cut_gets_what_tar_reports",
            "test_drain.py::test_wherever_it_is_cut_tar_reports_it",
        ),
    ),
    # How it ends
    Guard(
        "flush-before-close",
        "a broken archive is done with while its last bytes are still in this process",
        (Edit(_DOWNLOAD, "            await response.flush()\n", ""),),
        ("test_guarded_stream.py::test_an_archive_holds_its_place_until_its_last_bytes_have_left",),
    ),
    Guard(
        "fin-not-rst",
        "a connection that ends short is closed with bytes in hand, which nobody gets then",
        (
            Edit(_DOWNLOAD, "            await response.flush()\n", ""),
            Edit(
                _RESPONSE,
                '            raise ConnectionResetError("the body ends short")',
                "            self._connected().abort()\n"
                '            raise ConnectionResetError("the body ends short")',
            ),
        ),
        ("test_loud_failure.py::test_a_failure_waits_for_bytes_that_no_socket_took",),
    ),
    Guard(
        "one-answer",
        "an error is answered within an archive that has begun",
        (
            Edit(
                _APP,
                "if begun is not None:\n                response = begun",
                "if False:\n                response = begun",
            ),
        ),
        ("test_framing.py::test_a_mistake_of_ours_in_the_middle_breaks_off_as_well",),
    ),
    Guard(
        "http-exception",
        "an exception that aiohttp turns into an answer gets into an archive that has begun",
        (
            Edit(
                _DOWNLOAD,
                "            await response.flush()\n            return\n",
                "            await response.flush()\n            raise web.HTTPBadGateway\n",
            ),
            Edit(
                _APP,
                "if begun is not None:\n                response = begun",
                "if False:\n                response = begun",
            ),
        ),
        (
            "test_framing.py::test_a_body_that_breaks_off_ends_short_with_fin_and_without_a_second_answer",
        ),
    ),
    Guard(
        "ends-short",
        "fewer bytes than announced end an answer all the same, and the client waits for the rest",
        (Edit(_RESPONSE, "if self.prepared and not self.whole:", "if False:"),),
        (
            "test_framing.py::test_a_body_that_breaks_off_ends_short_with_fin_and_without_a_second_answer",
        ),
    ),
    Guard(
        "fewer-bytes",
        "a member that gave fewer bytes than planned is followed by the next one",
        (
            Edit(
                _HTTP,
                'raise OriginBroken("its origin ends it early")',
                "return",
            ),
            Edit(
                _TRANSFER,
                "if self.position != self._owed_until:\n                raise",
                "if False:\n                raise",
            ),
        ),
        ("test_guarded_stream.py::test_a_member_that_gives_fewer_bytes_ends_the_archive",),
    ),
    Guard(
        "member-counted",
        "a body that gives other than the bytes it was asked for is believed",
        (
            Edit(
                _TRANSFER,
                "if self.position != self._owed_until:\n                raise",
                "if False:\n                raise",
            ),
        ),
        ("test_guarded_stream.py::test_a_body_is_counted_whatever_store_it_is_of",),
    ),
    Guard(
        "fewer-announced",
        "an archive that turned out shorter than announced is logged as complete",
        (Edit(_DOWNLOAD, "if not response.whole:", "if False:"),),
        ("test_guarded_stream.py::test_an_archive_that_is_not_as_long_as_announced_is_a_failure",),
    ),
    Guard(
        "more-announced",
        "bytes beyond Content-Length are clipped in silence, or begin the next answer",
        (
            Edit(
                _RESPONSE,
                "if self.content_length is not None and "
                "self.sent + len(data) > self.content_length:",
                "if False:",
            ),
        ),
        ("test_guarded_stream.py::test_an_archive_that_is_not_as_long_as_announced_is_a_failure",),
    ),
    Guard(
        "header-as-counted",
        "a header that is not as long as it was counted shifts all that follows",
        (Edit("tarstream/layout.py", "if length != counted:", "if False:"),),
        (
            "test_layout.py::test_a_length_that_drifts_is_never_sent",
            "test_framing.py::test_a_mistake_of_ours_in_the_middle_breaks_off_as_well",
        ),
    ),
    Guard(
        "done-when-left",
        "a download counts as done while its last bytes are still in this process",
        (
            Edit(
                _RESPONSE,
                "        if self.sent == self.content_length:\n            await self.flush()\n",
                "        if self.sent == self.content_length:\n",
            ),
        ),
        ("test_guarded_stream.py::test_an_archive_holds_its_place_until_its_last_bytes_have_left",),
    ),
    Guard(
        "error-groups-of-plans",
        "what fails while several origins are asked arrives within a group of exceptions",
        (
            Edit(
                "tarstream/asking.py",
                "    except* TarstreamError as failed:\n"
                "        raise failed.exceptions[0] from None\n",
                "    finally:\n        pass\n",
            ),
        ),
        ("test_errors.py::test_an_origin_that_refuses_is_502_and_is_named",),
    ),
    Guard(
        "first-member",
        "headers go out before the first member is open: a dead origin is a broken download",
        (Edit(_TRANSFER, "            await self._ready()\n", ""),),
        (
            "test_transfer.py::test_nothing_begins_before_the_first_member_is_open",
            "test_archive.py::test_an_origin_that_is_down_is_502_and_not_a_broken_download",
        ),
    ),
    # Clients that leave, and clients that stop
    Guard(
        "client-not-origin",
        "a client that left is taken for an origin that broke off, which is asked again",
        (
            Edit(
                _HTTP,
                "                await sink.write(chunk)\n",
                "                try:\n"
                "                    await sink.write(chunk)\n"
                "                except _FAILURES as error:\n"
                "                    raise _translate(error) from error\n",
            ),
        ),
        (
            "test_transfer.py::test_a_client_that_leaves_is_not_taken_for_a_failing_origin",
            "test_store_http.py::test_an_error_of_the_sink_is_never_taken_for_the_origins",
        ),
    ),
    Guard(
        "handler-cancellation",
        "a client that left while its origin stalls is not noticed; the connection stays taken",
        (Edit(_APP, "handler_cancellation=True", "handler_cancellation=False"),),
        ("test_clients_leaving.py::test_while_the_origin_stalls_in_the_middle",),
    ),
    Guard(
        "stall-timeout",
        "a client that accepts nothing holds its archive, and its origin, for ever",
        (Edit(_RESPONSE, "elif now - self._moved_at >= self._timeout:", "elif False:"),),
        ("test_clients_leaving.py::test_a_client_that_accepts_nothing_is_ended",),
    ),
    Guard(
        "slow-is-not-stalled",
        "a client that reads slowly through a large buffer is taken for one that reads nothing",
        (
            Edit(
                _RESPONSE,
                "accepted = self._response.sent - _held(self._transport)",
                "accepted = self._response.sent",
            ),
        ),
        ("test_clients_leaving.py::test_a_client_that_reads_slowly_is_not_ended",),
    ),
    Guard(
        "slow-headers",
        "connections whose headers never come are kept for an hour",
        (Edit(_APP, "        keepalive_timeout=KEEPALIVE,\n", ""),),
        ("test_security_http.py::test_headers_that_never_end_are_not_waited_for",),
    ),
    Guard(
        "leaving-is-no-error",
        "each client that leaves is a traceback in the log",
        (
            Edit(
                _APP,
                "if not isinstance(error, expected):",
                "if begun is not None or not isinstance(error, expected):",
            ),
        ),
        ("test_access_log.py::test_what_is_written_to_a_client_that_left_causes_no_traceback",),
    ),
    Guard(
        "not-http-is-no-error",
        "each client that does not speak HTTP is a traceback in the log",
        (
            Edit(
                "server.py",
                '    logging.getLogger("aiohttp.server").addFilter(_quietly)\n',
                "",
            ),
        ),
        ("test_log.py::test_what_is_not_http_is_a_line_without_a_traceback",),
    ),
    Guard(
        "read-buffer",
        "a member whose turn has not come takes most of a megabyte",
        (Edit(_EXCHANGE, "                read_bufsize=READ_BUFFER,\n", ""),),
        ("test_guarded_stream.py::test_little_is_held_of_a_member_whose_turn_has_not_come",),
    ),
    Guard(
        "hold",
        "what is read for a client that stopped reading takes twice as much",
        (Edit(_HTTP, "self._answer.hold()", "pass"),),
        ("test_guarded_stream.py::test_little_is_held_for_a_client_that_stopped_reading",),
    ),
    Guard(
        "slow-again",
        "a client that was fast is given as much at a time when it has become slow",
        (Edit("tarstream/stores/bypass.py", "now() - began", "0.0"),),
        ("test_splice.py::test_who_becomes_slow_is_given_little_again",),
    ),
    # The end of the process
    Guard(
        "drain",
        "SIGTERM cuts downloads that are under way",
        (Edit("tarstream/admission.py", "await self._idle.wait()", "pass"),),
        (
            "test_drain.py::test_what_is_in_flight_finishes_while_the_listener_refuses_in_words",
            "test_drain.py::test_what_is_being_planned_finishes_as_well",
        ),
    ),
    Guard(
        "listener-stays",
        "at SIGTERM the listener closes at once: nobody is told to ask elsewhere",
        (
            Edit(
                "server.py",
                "    draining = asyncio.ensure_future(gateway.drain())\n",
                "    for site in sites:\n"
                "        await site.stop()\n"
                "    draining = asyncio.ensure_future(gateway.drain())\n",
            ),
            Edit(
                "server.py",
                "    gateway: Gateway, signals: asyncio.Queue[None], process: Alone | Worker\n",
                "    gateway, signals, process, sites=()\n",
            ),
            Edit(
                "server.py",
                "return await _until_stopped(gateway, signals, process)",
                "return await _until_stopped(gateway, signals, process, list(runner.sites))",
            ),
        ),
        ("test_drain.py::test_what_is_in_flight_finishes_while_the_listener_refuses_in_words",),
    ),
    Guard(
        "refuse-while-draining",
        "a gateway that drains takes new archives, and never ends",
        (Edit("tarstream/admission.py", "        if self.draining:\n", "        if False:\n"),),
        ("test_drain.py::test_what_is_in_flight_finishes_while_the_listener_refuses_in_words",),
    ),
    Guard(
        "exit-status",
        "a process that cut downloads ends as if it had not",
        (Edit("server.py", "return 1 if cut else 0", "return 0"),),
        (
            "test_drain.py::test_what_outlasts_the_timeout_is_cut_visibly",
            "test_drain.py::test_a_second_signal_ends_at_once",
        ),
    ),
    # Origins' connections, and how far ahead they are asked
    Guard(
        "ahead-count",
        "what is counted against `ahead` is headers and padding too: fewer members are open",
        (
            Edit(
                _TRANSFER,
                "if len(self._ahead) >= self._width.members:",
                "if len(self._queue) >= self._width.members:",
            ),
        ),
        ("test_transfer.py::test_the_origin_sees_as_many_requests_at_a_time_as_ahead_says",),
    ),
    Guard(
        "ahead-distance",
        "members are opened so long before their turn that origins hang up on them",
        (
            Edit(_TRANSFER, "if self._next.begins >= horizon:", "if False:"),
            Edit(
                _TRANSFER,
                "next(self._pieces, None) if self._pulled < horizon else None",
                "next(self._pieces, None)",
            ),
        ),
        ("test_transfer.py::test_members_beyond_ahead_bytes_are_not_opened_yet",),
    ),
    Guard(
        "no-connector-limit",
        "what slow clients are being sent holds all connections, and everybody else waits",
        (Edit(_HTTP, "limit=0, socket_factory", "limit=100, socket_factory"),),
        ("test_guarded_stream.py::test_slow_clients_do_not_hold_up_others",),
    ),
    Guard(
        "turn-gives-back",
        "what slow clients are being sent counts against what others may open ahead",
        (
            Edit(
                _TRANSFER,
                "        self._its_turn(opening)\n        begins",
                "        begins",
            ),
        ),
        ("test_guarded_stream.py::test_what_is_being_sent_takes_no_place_of_what_is_opened_ahead",),
    ),
    Guard(
        "places-for-heads",
        "members opened ahead for clients who stopped reading take every place: nobody plans",
        (
            Edit(
                _LIMIT,
                "self._for_ahead = connections - (connections + 3) // 4",
                "self._for_ahead = connections",
            ),
        ),
        ("test_limit.py::test_every_fourth_connection_is_kept_from_what_is_opened_ahead",),
    ),
    Guard(
        "heads-wait",
        "plans open as many connections to an origin as they like",
        (
            Edit(
                _LIMIT,
                "        async with self._slots.connection(source):\n"
                "            return await self._store.head(source)",
                "        return await self._store.head(source)",
            ),
        ),
        ("test_limit.py::test_heads_wait_for_a_connection_and_what_is_opened_does_not",),
    ),
    Guard(
        "opening-waits-for-nobody",
        "the member being sent, and its repair, wait behind what is opened ahead",
        (
            Edit(
                _LIMIT,
                "import AbstractAsyncContextManager\n",
                "import AbstractAsyncContextManager, asynccontextmanager\n",
            ),
            Edit(
                _LIMIT,
                "        return self._store.open(source, start, stop, size, validator)\n",
                "        opening = self._store.open(source, start, stop, size, validator)\n"
                "        return _waiting(self._slots, source, opening)\n"
                "\n"
                "\n"
                "@asynccontextmanager\n"
                "async def _waiting(slots, source, opening):\n"
                "    async with slots.connection(source), opening as body:\n"
                "        yield body\n",
            ),
        ),
        ("test_limit.py::test_heads_wait_for_a_connection_and_what_is_opened_does_not",),
    ),
    Guard(
        "fair-share",
        "one archive of many members takes all that may be opened ahead",
        (Edit(_LIMIT, "if has >= ceil(self._for_ahead / (archives + 1)):", "if False:"),),
        (
            "test_limit.py::test_an_archive_that_came_first_leaves_others_their_share",
            "test_fairness.py::test_an_archive_whose_client_sleeps_leaves_others_members_ahead",
        ),
    ),
    Guard(
        "ahead-bytes-bounded",
        "buffers of members opened ahead add up without bound over all archives",
        (Edit(_LIMIT, "if taken >= self._for_ahead or cost > self._bytes:", "if False:"),),
        ("test_limit.py::test_bytes_ahead_are_bounded_for_the_whole_process",),
    ),
    Guard(
        "turns-of-others",
        "a fast download of a large member keeps all others waiting until it has ended",
        (
            Edit(
                _BYPASS,
                "            await asyncio.sleep(0)  # where both sides are fast nothing else",
                "            pass  # where both sides are fast nothing else",
            ),
        ),
        ("test_fairness.py::test_a_member_that_never_has_to_be_waited_for_lets_others_run",),
    ),
    # How tests are made
    Guard(
        "contents-without-period",
        "contents that repeat hide that they were spliced at the wrong byte",
        (
            Edit(
                "tests/made.py",
                "offset = int.from_bytes(mark[8:]",
                "mark, offset = bytes(12), 0 * int.from_bytes(mark[8:]",
            ),
        ),
        ("test_origin.py::test_made_content_is_a_function_of_its_offset_and_has_no_period",),
    ),
    Guard(
        "origin-in-one-write",
        "an origin's headers and body in two writes make every test wait 40 ms",
        (
            Edit(
                "tests/origin.py",
                "            self._unsent = answer.head()\n",
                "            await self.send(answer.head())\n",
            ),
        ),
        ("test_guarded_stream.py::test_an_origin_hands_head_and_contents_to_the_kernel_at_once",),
    ),
)
