"""Mask what identifies people, or opens doors: e-mail and IP addresses, numbers of phones and accounts, secrets.

text  ->  the same text with placeholders, and how many of each kind

What is found is replaced by one of a few placeholders of its kind, chosen by a hash of what was found: so the same
address has the same placeholder in every document, build and worker, and can't be had back. A placeholder is nobody's:
reserved names and addresses (RFC 2606, 3849, 5737), numbers set aside for fiction or for tests. One that stands in
the text already is left alone. Patterns know ASCII only, which no version of Python's Unicode tables can change, and
none of them looks further than a bounded number of characters, whatever the text.
"""

import hashlib
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

from stages.extract.params import MaskRules

PLACEHOLDERS = {
    "emails": ("someone@example.com", "first.last@example.org", "contact@example.net", "user@example.com"),
    "ipv4": ("192.0.2.17", "198.51.100.42", "203.0.113.8", "192.0.2.201"),
    "ipv6": ("2001:db8::17", "2001:db8::42:8", "2001:db8:1::5", "2001:db8:7::c"),
    "phones": ("+1 202-555-0143", "+1 415-555-0127", "+44 20 7946 0958", "+44 1632 960961"),
    "ibans": ("GB00 AAAA 0000 0000 0000 00", "DE00 0000 0000 0000 0000 00", "FR00 0000 0000 0000 0000 0000 000"),
    "cards": ("4111 1111 1111 1111", "5555 5555 5555 4444", "4242 4242 4242 4242"),
    "secrets": ("MASKED_SECRET_ONE", "MASKED_SECRET_TWO", "MASKED_SECRET_THREE", "MASKED_SECRET_FOUR"),
}

Replace = Callable[[re.Match[str]], str | None]  # the text in place of a match; None if it isn't what it looks like

EMAIL = re.compile(
    r"(?<![A-Za-z0-9_])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
    r"[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
)
IPV4 = re.compile(r"(?<![A-Za-z0-9_.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![A-Za-z0-9_]|\.[0-9])")
IPV6 = re.compile(r"(?<![A-Za-z0-9_:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![A-Za-z0-9_:])")
# With a country's code; or as in North America: 415-555-2671, (415) 555-2671, 415.555.2671.
PHONE = re.compile(
    r"(?<![A-Za-z0-9_.+-])(?:\+[1-9][0-9 ().-]{6,20}[0-9](?![A-Za-z0-9_])"
    r"|(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?[2-9][0-9]{2}-|[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1)[0-9]{4}"
    r"(?![A-Za-z0-9_-]|\.[0-9]))"
)
IBAN = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9_])")
CARD = re.compile(
    r"(?<![A-Za-z0-9_.-])(?:[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{5})"
    r"(?![A-Za-z0-9_-]|\.[0-9])"
)
CARD_ISSUER = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|30[0-5]|3[689]|35|6011|64[4-9]|65")

# What is not out there: private, reserved and special addresses (IANA's registries), documentation included.
NOT_PUBLIC_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
    )
]  # fmt: skip
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC_V6 = [ipaddress.IPv6Network(network) for network in ("2001:db8::/32", "2001:2::/48", "3fff::/20")]

# What services give out, by how it begins. The body of a private key ends at the next dashes, whatever they are.
SECRETS = [
    re.compile(
        r"-----BEGIN (?:[A-Z]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----[^-]*+(?:-(?!----)[^-]*+)*+"
        r"-----END (?:[A-Z]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    ),
    re.compile(
        r"(?<![A-Za-z0-9_])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
        r"|glpat-[A-Za-z0-9_-]{20,64}|xox[abeoprs]-[A-Za-z0-9-]{10,250}|AIza[A-Za-z0-9_-]{35}"
        r"|(?:sk|rk)_live_[A-Za-z0-9]{16,128}|sk-[A-Za-z0-9_-]{32,200}|hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}"
        r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,2000})(?![A-Za-z0-9_])"
    ),
    re.compile(r"(?<=hooks\.slack\.com/services/)T[A-Z0-9]{6,14}/B[A-Z0-9]{6,14}/[A-Za-z0-9]{16,32}"),
    re.compile(r"://[A-Za-z0-9_.%+-]{1,64}:(?P<secret>[^\s/:@\"'<>{}$]{4,128})@(?=[A-Za-z0-9])"),
]
ASSIGNED = re.compile(
    r"(?:secret|token|passw(?:or)?d|api[_-]?key|access[_-]?key|private[_-]?key|credential|auth)[A-Za-z0-9_.-]{0,30}"
    r"[\"']?\s{0,3}(?:=>|:=|=|:)\s{0,3}[\"'](?P<secret>[A-Za-z0-9+/_=.-]{16,256})[\"']",
    re.IGNORECASE | re.ASCII,
)
LEAST_BITS = 3.0  # of a character: hexadecimal digits drawn at random have nearly 4, a name in words at most that


def mask(text: str, rules: MaskRules) -> tuple[str, dict[str, int]]:
    """`text` with placeholders for the kinds of `rules` that are on, and how many of each of these were put in.

    Secrets come first: other kinds may stand in them.
    """
    counts: Counter[str] = Counter()
    for kind, searches in KINDS.items():
        if getattr(rules, FIELDS[kind]):
            for sign, pattern, replace in searches:
                if sign in text:
                    text, found = _replaced(text, pattern, replace)
                    counts[kind] += found
    return text, {kind: counts[kind] for kind in masked_kinds(rules)}


def masked_kinds(rules: MaskRules) -> list[str]:
    """The kinds that are on, in their order: emails, ips and so on."""
    return [kind for kind, field in FIELDS.items() if getattr(rules, field)]


def placeholder(kind: str, found: str) -> str:
    """What stands in the place of `found`."""
    choices = PLACEHOLDERS[kind]
    digest = hashlib.blake2b(found.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return choices[int.from_bytes(digest, "big") % len(choices)]


def _replaced(text: str, pattern: re.Pattern[str], replace: Replace) -> tuple[str, int]:
    """`text` with each match replaced, and how many were."""
    number = 0

    def put(match: re.Match[str]) -> str:
        nonlocal number
        other = replace(match)
        number += other is not None
        return match[0] if other is None else other

    return pattern.sub(put, text), number


def _email(match: re.Match[str]) -> str | None:
    found = match[0]
    return None if found in PLACEHOLDERS["emails"] else placeholder("emails", found.lower())


def _ipv4(match: re.Match[str]) -> str | None:
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return None
    return None if any(address in network for network in NOT_PUBLIC_V4) else placeholder("ipv4", match[0])


def _ipv6(match: re.Match[str]) -> str | None:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return None
    if address not in PUBLIC_V6 or any(address in network for network in NOT_PUBLIC_V6):
        return None
    return placeholder("ipv6", address.compressed)


def _phone(match: re.Match[str]) -> str | None:
    """A placeholder for the longest beginning of whole groups that may be a number, and what comes after it."""
    for found in _beginnings(match[0]):
        if found in PLACEHOLDERS["phones"]:
            return None
        if _is_phone(found):
            digits = "".join(re.findall(r"[0-9]+", found))
            return placeholder("phones", digits) + match[0][len(found) :]
    return None


def _is_phone(found: str) -> bool:
    """Whether there are as many digits as E.164 has, in groups that are no list of digits."""
    groups = re.findall(r"[0-9]+", found)
    single = [group for group in groups[1:] if len(group) == 1 and group != "0"]
    return 8 <= sum(map(len, groups)) <= 15 and len(single) <= 1 and found.count("(") == found.count(")")


def _beginnings(found: str) -> Iterator[str]:
    """`found`, then without its last group, and so on."""
    ends = [place for place, letter in enumerate(found) if letter == " "]
    return (found[:end] for end in [len(found), *reversed(ends)])


def _iban(match: re.Match[str]) -> str | None:
    """A placeholder for the longest beginning of whole groups that is an IBAN, and what comes after it."""
    for found in _beginnings(match[0]):
        account = found.replace(" ", "")
        if 15 <= len(account) <= 34 and _is_iban(account):
            return placeholder("ibans", account) + match[0][len(found) :]
    return None


def _is_iban(account: str) -> bool:
    """Whether the check digits hold: ISO 7064, MOD 97-10, letters from A as 10."""
    moved = account[4:] + account[:4]
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1


def _card(match: re.Match[str]) -> str | None:
    digits = match[0].replace(" ", "").replace("-", "")
    if match[0] in PLACEHOLDERS["cards"] or not CARD_ISSUER.match(digits) or not 13 <= len(digits) <= 19:
        return None
    return placeholder("cards", digits) if _luhn(digits) else None


def _luhn(digits: str) -> bool:
    """Whether the check digit holds: ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _secret(match: re.Match[str]) -> str | None:
    name = "secret" if "secret" in match.re.groupindex else 0
    found, (begin, end) = match[name], match.span(name)
    if found in PLACEHOLDERS["secrets"]:
        return None
    return match[0][: begin - match.start()] + placeholder("secrets", found) + match[0][end - match.start() :]


def _assigned(match: re.Match[str]) -> str | None:
    """Only what looks drawn at random: with digits and letters, and many bits in a character."""
    found = match["secret"]
    mixed = any(letter.isdigit() for letter in found) and any(letter.isalpha() for letter in found)
    return _secret(match) if mixed and _bits(found) >= LEAST_BITS else None


def _bits(text: str) -> float:
    """Bits of a character of `text`, by how often each occurs in it."""
    return math.log2(len(text)) - sum(count * math.log2(count) for count in Counter(text).values()) / len(text)


# By kind: a sign without which nothing is to be found (a short look saves a long one), what to look for, and what then.
KINDS: dict[str, list[tuple[str, re.Pattern[str], Replace]]] = {
    "secrets": [*(("", pattern, _secret) for pattern in SECRETS), ("", ASSIGNED, _assigned)],
    "emails": [("@", EMAIL, _email)],
    "ips": [(".", IPV4, _ipv4), (":", IPV6, _ipv6)],
    "ibans": [("", IBAN, _iban)],
    "cards": [("", CARD, _card)],
    "phones": [("", PHONE, _phone)],
}
FIELDS = {
    "emails": "email", "ips": "ip", "phones": "phone", "ibans": "iban", "cards": "card", "secrets": "secrets",
}  # fmt: skip


def signal_names(rules: MaskRules) -> Iterator[str]:
    """The columns of signals that say how much was masked."""
    return (f"masked_{kind}" for kind in masked_kinds(rules))
