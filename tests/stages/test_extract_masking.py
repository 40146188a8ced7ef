"""What identifies people or opens doors is masked, alike everywhere; what only looks like it stays."""

import re

import pytest

from stages.extract.masking import FIELDS, PLACEHOLDERS, mask, masked_kinds
from stages.extract.params import MaskRules

ALL = MaskRules(**dict.fromkeys(FIELDS.values(), True))
# In pieces, so that nothing that looks for secrets finds them in this file.
GITHUB, SLACK, GOOGLE = "gh" + "p_" + "aB3" * 12, "xo" + "xb-" + "1234567890-abc", "AI" + "za" + "Sy0_" * 8 + "Abc"
AMAZON, TOKEN = "AK" + "IA" + "ABCD2345EFGH6789", "ey" + "J" + "hbGciOiJIUzI1NiJ9.ey" + "Jzdd" * 4 + "." + "x_-9" * 5
BODY = "Proc-Type: 4,ENCRYPTED\n\nMIIEpAIBAAKCAQEA\nx1+/y=="
KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("emails", "anna.smith+news@mail.example.co.uk"),
        ("emails", "x@y.org"),
        ("ips", "8.8.8.8"),
        ("ips", "2a00:1450:4001:81b::200e"),
        ("ips", "2606:4700:4700:0:0:0:0:1111"),
        ("phones", "+49 (0) 89 1234567"),
        ("phones", "+33 1 23 45 67 89"),
        ("phones", "+14155552671"),
        ("phones", "(415) 555-2671"),
        ("phones", "415-555-2671"),
        ("phones", "1-415-555-2671"),
        ("ibans", "DE89 3704 0044 0532 0130 00"),
        ("ibans", "GB82WEST12345698765432"),
        ("ibans", "BE71 0961 2345 6769"),
        ("cards", "4012888888881881"),
        ("cards", "3714 496353 98431"),
        ("cards", "6011-1111-1111-1117"),
        ("secrets", KEY),
        ("secrets", GITHUB),
        ("secrets", SLACK),
        ("secrets", GOOGLE),
        ("secrets", AMAZON),
        ("secrets", TOKEN),
    ],
)
@pytest.mark.parametrize("around", ["{}", "Call: {}.", "({}), or", "a = '{}';", "{}\nMore"])
def test_what_is_found_is_replaced_by_a_placeholder_of_its_kind(kind, found, around):
    masked, counts = mask(around.format(found), ALL)

    placeholders = [each for name in PLACEHOLDERS for each in PLACEHOLDERS[name] if name in (kind, "ipv4", "ipv6")]
    assert masked in {around.format(each) for each in placeholders}
    assert counts == {**dict.fromkeys(FIELDS, 0), kind: 1}


@pytest.mark.parametrize(
    "text",
    [
        "user@localhost", "@decorator", "a @ b.org", "x@-y.org", "me@example", "e@x.o1",
        "10.0.0.1", "192.168.1.1", "127.0.0.1", "192.0.2.17", "1.2.3", "v1.2.3.4", "8.8.8.8.8", "256.1.1.1", "8.8.8.08",
        "::1", "fe80::1", "2001:db8::17", "std::vector", "12:30:45", "fd00::1", "a:b:c",
        "415 555 2671", "115-555-2671", "2024-01-02", "1.234.567.890", "+1 2 3 4 5 6 7 8 9", "+123", "3-415-555-26712",
        "DE88 3704 0044 0532 0130 00", "AB12 CDEF", "DE89",
        "4012888888881882", "1234567812345670", "4012-8888 8888-1881", "0x4012888888881881",
        "password = 'hunter2'", 'token: "the_name_of_the_token"', "secret = os.environ['AWS_SECRET_1234567890']",
        "-----BEGIN PUBLIC KEY-----\nMIIB1\n-----END PUBLIC KEY-----", "https://host:8080/path@x",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text):
    assert mask(text, ALL) == (text, dict.fromkeys(FIELDS, 0))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("API_KEY = 'a8f5f167f44f4964e6c998dee827110c'", r"API_KEY = 'MASKED_SECRET_\w+'"),
        ('"access-token": "Zm9vYmFyYmF6cXV4MTIz",', r'"access-token": "MASKED_SECRET_\w+",'),
        ("password := \"q1W2e3R4t5Y6u7I8\"", r'password := "MASKED_SECRET_\w+"'),
        ("postgres://admin:s3cr3t!@db.internal/x", r"postgres://admin:MASKED_SECRET_\w+@db\.internal/x"),
        ("curl https://hooks.slack.com/services/T0ABCDEF0/B0ABCDEF0/abcdefghijklmnop1234",
         r"curl https://hooks\.slack\.com/services/MASKED_SECRET_\w+"),
    ],
)  # fmt: skip
def test_of_an_assignment_or_a_url_only_the_secret_is_replaced(text, masked):
    assert re.fullmatch(masked, mask(text, MaskRules(secrets=True))[0])


@pytest.mark.parametrize(
    ("text", "kind", "rest"),
    [
        ("BE71 0961 2345 6769 NEXT", "ibans", " NEXT"),
        ("+44 20 7946 0018 2024 12 31", "phones", " 2024 12 31"),
    ],
)
def test_what_follows_a_number_stays(text, kind, rest):
    masked, counts = mask(text, ALL)

    assert counts[kind] == 1
    assert masked.endswith(rest)
    assert masked.removesuffix(rest) in PLACEHOLDERS[kind]


def test_the_same_match_has_the_same_placeholder_whatever_is_around_and_however_it_is_written():
    one, _ = mask("Mail Anna@Firm.org or anna@firm.org; pay DE89370400440532013000.", ALL)
    other, _ = mask("anna@firm.org; DE89 3704 0044 0532 0130 00", ALL)

    assert one == f"Mail {other.split(';')[0]} or {other.split(';')[0]}; pay {other.split('; ')[1]}."


def test_different_matches_have_all_placeholders():
    masked, counts = mask("\n".join(f"user{number}@firm.org 8.8.{number}.8" for number in range(60)), ALL)

    assert counts["emails"] == counts["ips"] == 60
    assert {line.split()[0] for line in masked.splitlines()} == set(PLACEHOLDERS["emails"])
    assert {line.split()[1] for line in masked.splitlines()} == set(PLACEHOLDERS["ipv4"])


def test_masked_text_is_masked_no_further():
    everything = "\n".join(each for choices in PLACEHOLDERS.values() for each in choices)

    assert mask(everything, ALL) == (everything, dict.fromkeys(FIELDS, 0))


def test_only_what_is_on_is_masked_and_counted():
    text = "anna@firm.org, 8.8.8.8"

    assert mask(text, MaskRules()) == (text, {})
    masked, counts = mask(text, MaskRules(ip=True))
    assert masked.startswith("anna@firm.org, ")
    assert counts == {"ips": 1}
    assert masked_kinds(MaskRules(email=True, card=True)) == ["emails", "cards"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece",
    ["a", "a.", "@a.", "a@", "1", "1 ", "1.", "+1", "+1(", ":", "a:", "A1 ", "AB12 ", "token", "token=", "x://a:",
     "eyJ", "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "auth_-.", "4111 ", "sk-", "0:"],
)  # fmt: skip
def test_no_text_takes_long(piece):
    text = piece * (300_000 // len(piece))

    masked, _ = mask(text, ALL)

    assert len(masked) > 1000
