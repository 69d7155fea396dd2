"""What may be shown or stored of a path or an error: no credential, no control character."""

from __future__ import annotations

import re
import unicodedata

#: A name and a password before the host. A password may hold a slash, as AWS' keys do; a port is none.
_LOGIN = re.compile(r"(?<=://)[^\s/:@]*:(?!\d+(?:/|$))[^\s@]+@|(?<=://)[^\s/@]+@")
#: The query of a URL, up to what ends the sentence around it.
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?'\"<>]*)\?([^\s'\"<>]*?)(?=[:;,.)]*(?:[\s'\"<>]|$))", re.IGNORECASE)
#: Secrets by the names that they have in signed URLs, for URLs that the expression above does not see whole.
_SECRET = re.compile(
    r"\b((?:X-(?:Amz|Goog)-\w+(?:-\w+)*|AWSAccessKeyId|aws_secret_access_key|sig|signature|(?:access_|auth_)?token|"
    r"api_?key|secret|password)=)[^&\s'\"<>]+",
    re.IGNORECASE,
)
LONGEST_NAME = 100
LEFT_OUT = "?…"
"""Stands where the query of a URL was."""


def without_credentials(text: str) -> str:
    """A text whose URLs have lost what may be secret: login, query (`?…` is left), values of signatures.

    Without a `=` the mark of a query can be a wildcard; then only http has a query there.
    """
    if "://" not in text:
        return text

    def cut(found: re.Match[str]) -> str:
        is_query = "=" in found[2] or found[1].lower().startswith("http")
        return found[1] + LEFT_OUT if is_query else found[0]

    return _SECRET.sub(r"\1…", _QUERY.sub(cut, _LOGIN.sub("", text)))


def has_password(url: str) -> bool:
    """Whether a URL carries a password."""
    found = _LOGIN.search(url)
    return found is not None and ":" in found[0]


def printable(text: str, keep: str = "\n\t") -> str:
    r"""A text that cannot steer a terminal or turn its direction: such characters are written as `\x1b`.

    `keep` are those left as they are.
    """
    return "".join(c if c in keep or not steers(c) else c.encode("unicode_escape").decode() for c in text)


def shown(path: str) -> str:
    """A path or a name on one line of output, without credentials and control characters."""
    return printable(without_credentials(path), keep="")


def in_markdown(text: str) -> str:
    """A name as it stands in a table or a line of Markdown: no markup, no cell of its own, one line."""
    return shown(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def fault_of_name(name: str) -> str:
    """Why a text cannot be the name of a character, an emotion or a pack, in words; empty if it can.

    Names from packs and data sets are shown in terminals and pages, and stand in tables that spreadsheets open.
    """
    if not name.strip() or len(name) > LONGEST_NAME:
        return f"it must have 1 to {LONGEST_NAME} characters"
    if any(map(steers, name)):
        return "it has a control character"
    return f"it begins with '{name[0]}', as a formula of a spreadsheet does" if name[0] in "=+-@" else ""


def steers(character: str) -> bool:
    """Whether a character has no shape of its own: control, format (a change of direction), line separator."""
    # Joiners are needed to write some languages, and within emoji.
    return character not in "\u200c\u200d" and unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs")
