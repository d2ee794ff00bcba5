"""``python probe.py URL``: ends with 0 where a server answers 200, with 1 otherwise; the images have no curl."""

import sys
import urllib.request

TIMEOUT_SECONDS = 4.0


def main(url: str) -> int:
    """Ask once.

    Args:
        url: HTTP address that needs no credentials.

    Returns:
        0 or 1; with 1 the reason goes to stderr.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:  # urllib's errors and time-outs are among them
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
