"""Warnings of httplint and REDbot that stay, each with its reason. Nothing bad may stand here."""

EXPLAINED = {
    "FRESHNESS_NO_CACHE_NO_VALIDATOR": (
        "An archive whose sources have no validator has none either: a copy of it can be kept, and "
        "never used again. That is what no-cache says; nothing is lost but a cache's room."
    ),
    "STORE_PUBLIC_UNNECESSARY": (
        "`public` is what [server] public = true promises. It is not idle: without it a request "
        "that carries an Authorization, wanted by nobody, would not be answered from a cache "
        "(RFC 9111 3.5)."
    ),
    "STATUS_BAD_REQUEST": "The note says what 400 is, and every 400 gets it; no other would do.",
}
