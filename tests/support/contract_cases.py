"""The requests that tests/test_contract.py sends, named after their special feature."""

from tests.support.raw_http import Request

# A segment of the path, and the email that it is.
EMAILS = {
    "an address": ("alice@example.com", "alice@example.com"),
    "no address": ("123456.qq.com", "123456.qq.com"),
    "a dot": (".", "."),
    "two dots": ("..", ".."),
    "two dots, encoded": ("%2e%2E", ".."),
    "a plus": ("a+b", "a+b"),
    "a plus, encoded": ("a%2Bb", "a+b"),
    "blanks": ("%20a%20%20b%20", " a  b "),
    "emoji": ("%F0%9F%98%80", "\U0001f600"),
    "a bare per cent": ("100%25", "100%"),
    "encoded twice": ("a%252Fb%2541", "a%2Fb%41"),
    "no escape": ("a%4", "a%4"),
    "no digits in an escape": ("a%zz%", "a%zz%"),
    "what formats": ("%7Bemail%7D%25s%5C%22", '{email}%s\\"'),
    "reserved characters": ("~!$&'()*,;=:-_", "~!$&'()*,;=:-_"),
    "a question mark": ("a%3Fb%23c", "a?b#c"),
    "neighbours of control characters": ("%20~%C2%A0%E2%80%A7%E2%80%AA", " ~\u00a0\u2027\u202a"),
    "60,000 characters": ("a" * 60_000, "a" * 60_000),
    "half a character": ("%E4%BD", "\ufffd"),
    "half a character among others": ("a%C3%A9%E4%BDb", "a\u00e9\ufffdb"),
    "a surrogate": ("%ED%A0%80", "\ufffd\ufffd\ufffd"),
    "an overlong slash": ("%C0%AF", "\ufffd\ufffd"),
    "latin-1": ("caf%E9", "caf\ufffd"),
    "what looks like a broken character": ("%25ED%25A0%25E9", "%ED%A0%E9"),
}

# A query string, and the `q` that it holds: None where nothing is written for it.
QUERIES = {
    "a text": ("q=some-query", "some-query"),
    "empty": ("q=", None),
    "no value": ("q", None),
    "the last one": ("q=a&q=b", "b"),
    "the last one, empty": ("q=a&q=", None),
    "the last one, no value": ("q=a&q", None),
    "a refused one before the last": ("q=%0A&q=b", "b"),
    "a blank": ("q=%20", " "),
    "a plus": ("q=a+b", "a b"),
    "a plus, encoded": ("q=a%2Bb", "a+b"),
    "zero": ("q=0", "0"),
    "a semicolon": ("q=a;q=b", "a;q=b"),
    "another case": ("Q=a", None),
    "brackets": ("q[]=a", None),
    "an encoded name": ("%71=a", "a"),
    "an equals sign": ("q=a=b", "a=b"),
    "a question mark": ("q=a?b", "a?b"),
    "nothing between ampersands": ("&&q=a&&", "a"),
    "a bare per cent": ("q=100%25", "100%"),
    "no escape": ("q=100%", "100%"),
    "emoji": ("q=%F0%9F%98%80", "\U0001f600"),
    "half a character": ("q=%E4%BD", "\ufffd"),
    "a surrogate": ("q=%ED%A0%80", "\ufffd\ufffd\ufffd"),
    "neighbours of control characters": ("q=%20~%C2%A0%E2%80%A7%E2%80%AA", " ~\u00a0\u2027\u202a"),
    "2,000 parameters": ("&".join(f"p{number}={number}" for number in range(2000)) + "&q=a", "a"),
    "50,000 characters": ("q=" + "a" * 50_000, "a" * 50_000),
}

# Paths that lead nowhere.
NOWHERE = {
    "the root": "/",
    "no email": "/send-notification",
    "empty email": "/send-notification/",
    "empty email, two slashes": "/send-notification//",
    "two segments": "/send-notification/a/b",
    "two segments, encoded": "/send-notification/a%2Fb",
    "two segments and a slash": "/send-notification/a/b/",
    "two slashes": "//send-notification/a",
    "two slashes inside": "/send-notification//a",
    "another case": "/Send-Notification/a",
    "elsewhere": "/send/a?q=a",
}

# What stands after /send-notification/, and where the redirect leads: relative to the same place.
SLASHES = {
    "one": ("alice/", "alice"),
    "three": ("alice///", "alice"),
    "encoded": ("alice%2F", "alice"),
    "with a query": ("alice/?q=a%20b&q+%2F/", "alice?q=a%20b&q+%2F/"),
    "with an empty query": ("alice/?", "alice"),
    "after an address": ("alice@example.com/", "alice@example.com"),
    "after reserved characters": ("~!$&'()*+,;=:[]/", "~!$&'()*+,;=:[]"),
    "after encoded characters": ("%3Fa%23b%20c%5C%F0%9F%98%80/", "%3Fa%23b%20c%5C%F0%9F%98%80"),
    "after half a character": ("%E4%BD/", "%EF%BF%BD"),
    "after half a character and emoji": ("%F0%9F%98%80%E4%BD/", "%F0%9F%98%80%EF%BF%BD"),
    "after a control character": ("a%0Ab/", "a%0Ab"),
}


def _to_alice(*, body: bytes = b"", **headers: str) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(target="/send-notification/alice", headers=names, body=body)


# What may come along with a request, and changes nothing.
REQUESTS = {
    "no body": _to_alice(),
    "an empty body": _to_alice(Content_Length="0"),
    "malformed JSON": _to_alice(Content_Type="application/json", body=b"{"),
    "a broken form": _to_alice(Content_Type="multipart/form-data; boundary=x", body=b"--x\r\nnonsense"),
    "no boundary": _to_alice(Content_Type="multipart/form-data", body=b"--x"),
    "an unknown charset": _to_alice(Content_Type="text/plain; charset=nonsense", body=b"\xff"),
    "a wrong encoding": _to_alice(Content_Encoding="gzip", body=b"no gzip"),
    "fields of the same names": _to_alice(
        Content_Type="application/x-www-form-urlencoded", body=b"email=bob&q=other&_method=PUT"
    ),
    "chunks": _to_alice(Transfer_Encoding="chunked", Content_Length="", body=b"3\r\nabc\r\n0\r\n\r\n"),
    "100-continue": _to_alice(Expect="100-continue", body=b"abc"),
    "other content wanted": _to_alice(Accept="text/html", Accept_Language="xx", Accept_Encoding="gzip"),
    "cookies": _to_alice(Cookie="sessionid=x; csrftoken=y; ;=;"),
    "a foreign origin": _to_alice(Origin="https://evil.example", Sec_Fetch_Site="cross-site"),
    "a foreign referer": _to_alice(Referer="https://evil.example/"),
    "a wrong CSRF token": _to_alice(X_CSRFToken="x"),
    "another method wanted": _to_alice(X_HTTP_Method_Override="GET"),
    "the connection to be closed": _to_alice(Connection="close"),
}

# Both ends of each range that is refused, and those that matter most.
CONTROL_CHARACTERS = {
    "NUL": "\0",
    "tab": "\t",
    "newline": "\n",
    "carriage return": "\r",
    "escape": "\x1b",
    "unit separator": "\x1f",
    "delete": "\x7f",
    "first of C1": "\x80",
    "next line": "\x85",
    "last of C1": "\x9f",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
}
