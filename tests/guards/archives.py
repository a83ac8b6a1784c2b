"""Guards of what stands in an archive: names, times, headers."""

from guards.guard import Edit, Guard

_NAMES = "tarstream/names.py"
_TAR = "tarstream/formats/tar.py"
_ZIP = "tarstream/formats/zip.py"

_BAD_LINE = "test_catalogs.py::test_a_bad_line_is_named_with_what_is_wrong_with_it"
_MENDED = ("test_names.py::test_a_name_is_mended", "test_names.py::test_a_mended_name_is_safe")

ARCHIVES = (
    Guard(
        "dots-in-ids",
        "an id `../secret` leaves the template's path: URLs are normalised when they are built",
        (
            Edit(
                "tarstream/catalogs/template.py",
                'if any(segment in {"", ".", ".."} for segment in id_.split("/")):',
                "if False:",
            ),
        ),
        (
            "test_catalogs.py::test_ids_with_an_empty_or_dotted_segment_are_unknown",
            "test_errors.py::test_an_id_that_climbs_is_unknown_to_a_template",
        ),
    ),
    Guard(
        "dots-in-files",
        "a `file:///` URL leaves the directory that is allowed",
        (
            Edit(
                "tarstream/stores/file.py",
                'if any(segment in {".", ".."} or "/" in segment for segment in segments):',
                "if False:",
            ),
        ),
        ("test_store_file.py::test_a_path_with_dots_or_hidden_slashes_is_forbidden",),
    ),
    Guard(
        "file-and-directory",
        "`a` and `a/b` in one archive: GNU tar exits with 2",
        (
            Edit(
                _NAMES,
                "(key in taken or _is_directory(key, tree)):",
                "key in taken:",
            ),
        ),
        (
            "test_names.py::test_names_become_unique",
            "test_names.py::test_unique_names_do_not_collide",
        ),
    ),
    Guard(
        "slash-of-files",
        "a file whose name ends in a slash becomes a directory, and its contents headers behind it",
        (
            Edit(
                "tarstream/resolve.py",
                'given.append(entry.name if entry.source == b"" else entry.name.rstrip("/"))',
                "given.append(entry.name)",
            ),
        ),
        ("test_resolve.py::test_what_has_contents_is_a_file_whatever_its_name",),
    ),
    Guard(
        "directories-can-be-entered",
        "what is extracted into a directory of mode 0644 cannot be read",
        (Edit(_TAR, "0o755 if member.is_directory else ", ""),),
        ("test_tar.py::test_a_directory_may_be_entered_by_everybody_and_ends_in_a_slash",),
    ),
    Guard(
        "numbering-is-linear",
        "10,000 equal names take a minute, in which nobody else is served",
        (
            Edit(
                _NAMES,
                "for number in counts[_key(before), _key(after)]:",
                "for number in count(2):",
            ),
            Edit(
                _NAMES,
                "        mended[index] = numbered\n",
                "        taken.add(key)\n        mended[index] = numbered\n",
            ),
        ),
        ("test_names.py::test_adversarial_names_take_linear_time",),
    ),
    Guard(
        "absolute-names",
        "`/abs` and `../up` are extracted outside of the directory",
        (
            Edit(
                _NAMES,
                'if segment not in {"", ".", ".."}] or',
                "if segment] or",
            ),
            Edit(_NAMES, r"(?!\.\.?(?:/|\Z)|B{_BZIP2})", "(?!B{_BZIP2})"),
        ),
        _MENDED,
    ),
    Guard(
        "leading-slash",
        "`/abs` is extracted at the root of the file system",
        (
            Edit(
                _NAMES, 'if segment not in {"", ".", ".."}] or', 'if segment not in {".", ".."}] or'
            ),
        ),
        _MENDED,
    ),
    Guard(
        "controls-in-names",
        "newline and ESC in a name forge lines and obey in a terminal; NUL cuts it short",
        (
            Edit(_NAMES, r'r"[\x00-\x1f\x7f-\x9f\u061c', r'r"[\x7f-\x9f\u061c'),
            Edit(_NAMES, r"[^/\\\x00-\x1f\x7f]++", r"[^/\\\x7f]++"),
        ),
        _MENDED,
    ),
    Guard(
        "case-folded",
        "names that differ only in case overwrite each other where case does not count",
        (Edit(_NAMES, "name.casefold()", "name"),),
        (
            "test_names.py::test_names_become_unique",
            "test_names.py::test_unique_names_do_not_collide",
        ),
    ),
    Guard(
        "nfc-compared",
        "names that differ only in how they are composed overwrite each other",
        (
            Edit(_NAMES, 'normalize("NFC", name.casefold())', "name.casefold()"),
            Edit(
                _NAMES,
                '_interrupted, normalize("NFC", _MARKS.sub(_interrupted, name)))',
                "_interrupted, name)",
            ),
        ),
        (
            "test_names.py::test_names_become_unique",
            "test_names.py::test_unique_names_do_not_collide",
        ),
    ),
    Guard(
        "whole-seconds",
        "an mtime with a fraction adds 1,024 bytes to a member's header",
        (
            Edit(
                "tarstream/stores/file.py",
                "max(int(status.st_mtime), 0)",
                "max(status.st_mtime, 0)",
            ),
        ),
        ("test_store_file.py::test_mtime_is_whole_seconds_from_the_epoch_on",),
    ),
    Guard(
        "whole-numbers",
        "a catalog states an mtime that is a fraction or negative, or a size that is none",
        (
            Edit(
                "tarstream/catalogs/file.py",
                "if type(value) is not int or not 0 <= value < _MAX_NUMBER:",
                "if False:",
            ),
        ),
        (
            f"{_BAD_LINE}[float for mtime]",
            f"{_BAD_LINE}[negative mtime]",
        ),
    ),
    Guard(
        "from-the-epoch-on",
        "a negative mtime adds 1,024 bytes to a member's header",
        (
            Edit(
                "tarstream/stores/http.py",
                "max(int(modified.timestamp()), 0)",
                "int(modified.timestamp())",
            ),
        ),
        ("test_store_http.py::test_head_says_what_the_origin_says_of_time_and_version",),
    ),
    Guard(
        "measured-headers",
        "a header is taken for 512 bytes where names, sizes and times make it longer",
        (
            Edit(
                _TAR,
                "length = _lengths[shape] = len(before(member))",
                "length = _lengths[shape] = 512",
            ),
        ),
        (
            "test_formats.py::test_it_measures_what_it_renders",
            "test_tar.py::test_a_header_is_one_block_and_a_pax_header_where_a_field_outgrows_it",
        ),
    ),
    Guard(
        "measured-by-shape",
        "a member is measured by another that only nearly looks alike",
        (Edit(_TAR, "        len(name) if ascii_ else len(name.encode()),\n", "        0,\n"),),
        ("test_tar.py::test_members_that_nearly_look_alike_are_measured_each_for_itself",),
    ),
    Guard(
        "golden-bytes",
        "another Python, or another version of ours, gives other bytes for the same archive",
        (Edit(_TAR, "else 0o644", "else 0o600"),),
        ("test_tar.py::test_the_bytes_are_those_of_the_golden_files",),
    ),
    Guard(
        "size-beyond-8-gib",
        "a reader that knows no pax headers takes 8 GiB for an empty file",
        (
            Edit(
                _TAR,
                "return header if size < _OCTAL else",
                "return header if True else",
            ),
        ),
        ("test_tar.py::test_the_last_block_says_the_size_whatever_it_is",),
    ),
    Guard(
        "zip-stated-crc",
        "a CRC-32 that is known stands behind the contents: who reads from a pipe refuses the zip",
        (
            Edit(
                _ZIP,
                "described = 0 if member.digest(DIGEST) else _DESCRIBED",
                "described = _DESCRIBED",
            ),
        ),
        ("test_zip.py::test_a_local_header_whose_crc_is_stated",),
    ),
    Guard(
        "zip64-not-forced",
        "small members are Zip64: busybox refuses them, and Safari the first one",
        (Edit(_ZIP, "    large = member.size >= _MOST\n", "    large = True\n"),),
        ("test_zip.py::test_a_member_is_zip64_only_where_its_size_overflows",),
    ),
    Guard(
        "zip-utf-8",
        "only one of a member's two headers says that its name is UTF-8",
        (
            Edit(
                _ZIP,
                "            version,\n            _flags(member),\n",
                "            version,\n            _flags(member) & ~_UTF8,\n",
            ),
        ),
        ("test_zip.py::test_both_headers_say_that_a_name_is_utf_8",),
    ),
    Guard(
        "zip-65535-members",
        "65,535 members are said in a field in which that number means: see elsewhere",
        (Edit(_ZIP, "if number >= _MOST_ENTRIES or", "if number > _MOST_ENTRIES or"),),
        (
            "test_zip.py::test_the_end_is_zip64_only_where_something_overflows",
            "test_zip.py::test_members_around_65_536_by_layout",
        ),
    ),
    Guard(
        "zip-4-gib",
        "4 GiB - 1 is said in a field in which that number means: see elsewhere",
        (Edit(_ZIP, "start) if value >= _MOST]", "start) if value > _MOST]"),),
        (
            "test_zip.py::test_an_entry_is_zip64_only_where_size_or_offset_overflows",
            "test_zip.py::test_members_around_4_gib_by_layout",
        ),
    ),
    Guard(
        "dos-time",
        "times before 1980 are none that DOS knows, and no archive is laid out",
        (
            Edit(
                _ZIP,
                "time.gmtime(min(max(member.mtime, _FIRST), _LAST))",
                "time.gmtime(member.mtime)",
            ),
        ),
        ("test_zip.py::test_dos_time_is_utc_and_held_to_its_limits",),
    ),
)
