"""Guards in the configuration of nginx."""

from guards.guard import Edit, Guard

_NGINX = "deploy/nginx.conf"

PROXIES = (
    Guard(
        "nginx-http-1-1",
        "nginx speaks HTTP/1.0: each connection closes, and a cut body without length is whole",
        (Edit(_NGINX, "proxy_http_version 1.1;", "proxy_http_version 1.0;"),),
        ("test_nginx.py::test_connections_to_the_gateway_are_kept",),
    ),
    Guard(
        "nginx-connection",
        "nginx tells the gateway to close each connection",
        (Edit(_NGINX, 'proxy_set_header Connection "";', 'proxy_set_header Connection "close";'),),
        ("test_nginx.py::test_connections_to_the_gateway_are_kept",),
    ),
    Guard(
        "nginx-buffering",
        "nginx gathers what comes, and takes archives as fast as it can, onto its disk",
        (Edit(_NGINX, "proxy_buffering off;", "proxy_buffering on;"),),
        ("test_guarded_proxies.py::test_what_comes_is_passed_on_at_once",),
    ),
    Guard(
        "nginx-temporary-files",
        "downloads over 1 GiB break, should buffering come back",
        (Edit(_NGINX, "proxy_max_temp_file_size 0;", "proxy_max_temp_file_size 1024m;"),),
        ("test_guarded_proxies.py::test_nothing_is_stored_should_buffering_come_back",),
    ),
    Guard(
        "nginx-accel-header",
        "another nginx in front is not told not to buffer",
        (Edit(_NGINX, "proxy_pass_header X-Accel-Buffering;", ""),),
        ("test_nginx.py::test_another_proxy_in_front_is_told_not_to_buffer",),
    ),
    Guard(
        "nginx-gzip",
        "gzip takes Content-Length, ranges and the strong entity-tag away",
        (
            Edit(
                _NGINX,
                "gzip off;",
                "gzip on; gzip_proxied any; gzip_types application/x-tar;",
            ),
        ),
        ("test_nginx.py::test_an_answer_through_it_is_the_direct_one[recommended-GET-coded]",),
    ),
    Guard(
        "nginx-read-timeout",
        "nginx gives up while a member is being repaired",
        (Edit(_NGINX, "proxy_read_timeout 240s;", "proxy_read_timeout 60s;"),),
        ("test_nginx.py::test_its_times_and_sizes_fit_the_gateway",),
    ),
    Guard(
        "nginx-keepalive",
        "the gateway closes idle connections first, and nginx sends a request into one",
        (Edit(_NGINX, "keepalive_timeout 60s;", "keepalive_timeout 90s;"),),
        ("test_nginx.py::test_its_times_and_sizes_fit_the_gateway",),
    ),
    Guard(
        "gateway-keepalive",
        "the gateway closes idle connections before nginx does",
        (Edit("tarstream/app.py", "\nKEEPALIVE = 75\n", "\nKEEPALIVE = 50\n"),),
        ("test_nginx.py::test_its_times_and_sizes_fit_the_gateway",),
    ),
    Guard(
        "nginx-abort",
        "a client that left keeps gateway and origins busy",
        (Edit(_NGINX, "proxy_ignore_client_abort off;", "proxy_ignore_client_abort on;"),),
        ("test_guarded_proxies.py::test_a_client_that_leaves_with_all_there_was_frees_the_origin",),
    ),
    Guard(
        "nginx-request-line",
        "nginx refuses lists of ids that the gateway takes",
        (Edit(_NGINX, "large_client_header_buffers 4 33k;", ""),),
        (
            "test_nginx.py::test_a_request_line_of_32_kib_is_taken",
            "test_nginx.py::test_its_times_and_sizes_fit_the_gateway",
        ),
    ),
    Guard(
        "nginx-body",
        "nginx refuses long lists in a POST",
        (Edit(_NGINX, "client_max_body_size 8m;", ""),),
        ("test_nginx.py::test_a_body_of_8_mib_is_taken_and_a_longer_one_refused",),
    ),
)
