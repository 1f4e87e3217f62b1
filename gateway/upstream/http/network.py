"""Network access to the fleet API: the TLS context of the settings, and the proxy of the environment."""

from __future__ import annotations

import importlib.util
import os
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from gateway.hosts import is_loopback
from gateway.settings import HTTP, Misconfigured, UpstreamSettings, parse_url, variable_of

SOCKS = ("socks5", "socks5h")


class UpstreamMisconfigured(Misconfigured):
    """The settings and the environment contradict each other."""


class Proxy(NamedTuple):
    """A proxy's URL, which may hold a password, and the environment variable that names it."""

    url: str
    variable: str


def proxy_of(url: str) -> Proxy | None:
    """The proxy that the environment names for a URL; None where there is none, or `NO_PROXY` excludes the host."""
    parts, proxies = urlsplit(url), getproxies_environment()
    if not proxies or proxy_bypass(parts.netloc):
        return None
    for kind in (parts.scheme, "all"):
        proxy = proxies.get(kind)
        if proxy:
            wanted = f"{kind}_proxy"
            variable = wanted if os.environ.get(wanted) else wanted.upper()
            return Proxy(proxy if "://" in proxy else f"http://{proxy}", variable)
    return None


def tls_context(settings: UpstreamSettings) -> ssl.SSLContext:
    """The TLS context of both transports; raises UpstreamMisconfigured where a file can't be used."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as failure:
        raise _file_error("upstream.ca_file", failure) from failure
    if settings.client_certificate is not None:
        try:
            # Without a password, OpenSSL would prompt for that of an encrypted key.
            context.load_cert_chain(settings.client_certificate, settings.client_key, password="")
        except OSError as failure:
            raise _file_error("upstream.client_certificate", failure) from failure
    elif settings.client_key is not None:
        raise UpstreamMisconfigured("upstream.client_key", "A key needs a client certificate, which is not set")
    return context


def check(settings: UpstreamSettings) -> None:
    """Raises UpstreamMisconfigured for settings that the transport would ignore or does not support."""
    if settings.url.lower().startswith("https://"):
        tls_context(settings)
    else:
        for name in ("ca_file", "client_certificate", "client_key"):
            if getattr(settings, name) is not None:
                raise UpstreamMisconfigured(
                    f"upstream.{name}", "The file is unused, because the upstream's URL is not https"
                )
    proxy = None if is_loopback(urlsplit(settings.url).hostname or "") else proxy_of(settings.url)
    if settings.transport == "builtin":
        if proxy is not None:
            raise UpstreamMisconfigured(
                "upstream.transport",
                f"{proxy.variable} applies to the upstream's URL, but the builtin transport connects directly; "
                f"set {variable_of('upstream.transport')}=httpx to use the proxy, or add the host to NO_PROXY",
            )
        if settings.http2:
            raise UpstreamMisconfigured("upstream.http2", "HTTP/2 needs the transport httpx")
    if settings.http2 and not _is_installed("h2"):
        raise UpstreamMisconfigured("upstream.http2", "HTTP/2 needs the extra http2: invers-graphql-gateway[http2]")
    if proxy is not None:
        _check_proxy(proxy)


def _check_proxy(proxy: Proxy) -> None:
    try:
        parts = parse_url(proxy.url, (*SOCKS, *HTTP))
    except ValueError as invalid:
        raise UpstreamMisconfigured("upstream.transport", f"{proxy.variable} {invalid}") from invalid
    if parts.scheme in SOCKS and not _is_installed("socksio"):
        raise UpstreamMisconfigured(
            "upstream.transport", f"{proxy.variable} names a SOCKS proxy, which needs the package socksio"
        )


def _file_error(setting: str, failure: OSError) -> UpstreamMisconfigured:
    reason = failure.strerror if failure.strerror and not isinstance(failure, ssl.SSLError) else "no usable PEM file"
    return UpstreamMisconfigured(setting, f"The file can't be used: {reason}")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
