"""Who may see a shared viewer: password, sessions, and limits on guessing. Knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from avatar.checks import InputError

LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 characters that nobody mistakes for one another: five bits each."""
PASSWORD_GROUPS, PASSWORD_GROUP = 4, 5
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 256


def random_password() -> str:
    """Return a password of 100 random bits, in groups that can be read out."""
    groups = (
        "".join(secrets.choice(LETTERS) for _ in range(PASSWORD_GROUP))
        for _ in range(PASSWORD_GROUPS)
    )
    return "-".join(groups)


def need_password(text: str) -> str:
    """Return a password that a person chose; raises InputError where it is too short or too long."""
    if not SHORTEST_PASSWORD <= len(text) <= LONGEST_PASSWORD:
        raise InputError(
            f"The password for sharing must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; "
            f"got {len(text)}. Choose a longer one, or unset the variable for a random one."
        )
    return text


@dataclass(frozen=True)
class GuessLimits:
    """How wrong passwords slow down the next ones: each doubles the wait, up to the longest."""

    free: int = 3
    """Wrong passwords from one address before it has to wait."""
    free_in_all: int = 20
    """Wrong passwords from all addresses together before all have to wait."""
    first_s: float = 1.0
    longest_s: float = 3600.0
    """Longest wait of one address, seconds."""
    longest_in_all_s: float = 30.0
    """Longest wait of everybody, seconds: a guesser must not keep the owner out."""
    forget_s: float = 24 * 3600.0
    """After so many seconds without a wrong password the count begins anew."""
    addresses: int = 4096
    """Addresses that are remembered; the one that was seen longest ago is forgotten first."""


@dataclass
class _Guesses:
    wrong: int = 0
    last: float = 0.0
    until: float = 0.0


class Gate:
    """Checks passwords in constant time, and makes guessers wait. Thread-safe.

    While an address has to wait its passwords are not even looked at, so that a right one tells nothing.
    """

    def __init__(
        self,
        password: str,
        *,
        limits: GuessLimits = GuessLimits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the password; only a keyed hash of it is kept."""
        self._key = secrets.token_bytes(32)
        self._wanted = self._hashed(password)
        self._limits, self._clock = limits, clock
        self._of_address: OrderedDict[str, _Guesses] = OrderedDict()
        self._of_all = _Guesses()
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> float:
        """Return for how many seconds an address has to wait; 0 where it may try."""
        with self._lock:
            return self._wait_s(_network(address), self._clock())

    def try_password(self, address: str, password: str) -> tuple[bool, float]:
        """Check a password.

        Args:
            address: IP address that it came from.
            password: what was typed.

        Returns:
            Whether it is right, and for how many seconds the address has to wait before the next.
        """
        network = _network(address)
        with self._lock:
            now = self._clock()
            wait = self._wait_s(network, now)
            if wait > 0:
                return False, wait
            if hmac.compare_digest(self._hashed(password), self._wanted):
                self._of_address.pop(network, None)
                return True, 0.0
            limits = self._limits
            of_address = self._of_address.setdefault(network, _Guesses())
            self._of_address.move_to_end(network)
            if len(self._of_address) > limits.addresses:
                self._of_address.popitem(last=False)
            self._count(of_address, now, limits.free, limits.longest_s)
            self._count(self._of_all, now, limits.free_in_all, limits.longest_in_all_s)
            return False, self._wait_s(network, now)

    def _count(self, guesses: _Guesses, now: float, free: int, longest_s: float) -> None:
        if now - guesses.last > self._limits.forget_s:
            guesses.wrong = 0
        guesses.wrong += 1
        guesses.last = now
        if guesses.wrong > free:
            doublings = min(guesses.wrong - free - 1, 60)
            guesses.until = now + min(self._limits.first_s * 2.0**doublings, longest_s)

    def _wait_s(self, network: str, now: float) -> float:
        of_address = self._of_address.get(network)
        until = (
            self._of_all.until if of_address is None else max(of_address.until, self._of_all.until)
        )
        return max(0.0, until - now)

    def _hashed(self, password: str) -> bytes:
        # Equal lengths whatever was typed; a surrogate that no UTF-8 has must not raise.
        return hmac.new(self._key, password.encode("utf-8", "replace"), hashlib.sha256).digest()


def _network(address: str) -> str:
    """Return what counts as one address: an IPv6 host has 2**64 of them."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Sessions:
    """Who has logged in: random tokens that expire. Thread-safe; only their hashes are kept."""

    def __init__(
        self,
        *,
        lifetime_s: float = 12 * 3600.0,
        most: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nobody.

        Args:
            lifetime_s: seconds from the login to the end of a session.
            most: sessions at a time; the oldest ends where there would be more.
            clock: seconds, never going back.
        """
        self.lifetime_s = lifetime_s
        self._most, self._clock = most, clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def open(self) -> str:
        """Begin a session; returns its token of 256 random bits."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._drop_expired()
            while len(self._ends) >= self._most:
                self._ends.popitem(last=False)
            self._ends[_token_hash(token)] = self._clock() + self.lifetime_s
        return token

    def alive(self, token: str) -> bool:
        """Return whether a token is one of a session that has not ended."""
        # Tokens are looked up by hash: how long that takes tells nothing of them.
        with self._lock:
            end = self._ends.get(_token_hash(token))
            return end is not None and self._clock() < end

    def close(self, token: str) -> None:
        """End a session; doing so twice does no harm."""
        with self._lock:
            self._ends.pop(_token_hash(token), None)

    def __len__(self) -> int:
        """Return how many sessions there are."""
        with self._lock:
            self._drop_expired()
            return len(self._ends)

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._ends and next(iter(self._ends.values())) <= now:
            self._ends.popitem(last=False)


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
