"""All guards, in the order in which they are taken out."""

from guards.archives import ARCHIVES
from guards.clients import CLIENTS
from guards.origins import ORIGINS
from guards.proxies import PROXIES
from guards.stream import STREAM

GUARDS = (*STREAM, *CLIENTS, *PROXIES, *ORIGINS, *ARCHIVES)
