"""Which brokers may be used, and TLS to a real one."""

import asyncio
import datetime as dt
import gc
import ipaddress
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edgeagent.core.errors import ConfigError, PeerLostError
from edgeagent.execution.transport.mqtt import BrokerAddress, MqttTransport, parse_address
from tests.conftest import Mosquitto

NAME, OTHER = "broker.test", "another.test"  # nobody's (RFC 6761)
ELSEWHERE = "192.0.2.7"  # for documentation (RFC 5737); nothing is sent


@pytest.mark.parametrize(
    ("url", "port", "has_tls"),
    [
        ("mqtt://127.0.0.1", 1883, False),
        ("mqtt://localhost:1999/", 1999, False),
        ("mqtts://127.0.0.1", 8883, True),
        ("mqtt://[::1]:1884", 1884, False),
    ],
)
def test_broker_on_this_machine_is_taken(url: str, port: int, has_tls: bool) -> None:
    address = parse_address(url)
    assert (address.port, address.has_tls) == (port, has_tls)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1", "mqtt://", "mqtt:127.0.0.1", "mqtt://127.0.0.1:99999", "mqtt://127.0.0.1/x", "mqtt://[::1",
     "mqtt://me:secret@127.0.0.1", "mqtt://127.0.0.1?x"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.url"):
        parse_address(url)


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
def test_broker_elsewhere_is_for_enrolled_machines(scheme: str) -> None:
    with pytest.raises(ConfigError, match="in no fleet"):
        parse_address(f"{scheme}://{ELSEWHERE}")
    assert parse_address(f"{scheme}://{ELSEWHERE}", is_enrolled=True).host == ELSEWHERE


def test_password_leaves_this_machine_over_tls_only() -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        parse_address(f"mqtt://{ELSEWHERE}", "me", "secret", is_enrolled=True)
    address = parse_address(f"mqtts://{ELSEWHERE}", "me", "secret", is_enrolled=True)
    assert "secret" not in repr(address)


def test_ca_file_without_tls_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="mqtts://"):
        parse_address("mqtt://127.0.0.1", ca_file="/etc/ca.pem")


@dataclass(frozen=True, slots=True)
class Certified:
    port: int
    ca_file: Path
    other_ca_file: Path


@pytest.fixture
def tls_broker(tmp_path: Path) -> Iterator[Certified]:
    """A real broker with a certificate for 127.0.0.1 and NAME."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("no mosquitto here; install it (apt-get install mosquitto)")
    ours, key = certificate(tmp_path, "ours")
    other, _ = certificate(tmp_path, "other")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    # `user`: as root it would become somebody else, who cannot read what is here
    config.write_text(f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\ncertfile {ours}\nkeyfile {key}\n")
    broker = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        until_open(port)
        yield Certified(port, ours, other)
    finally:
        broker.kill()
        broker.wait()


def until_open(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the broker did not come up"
            time.sleep(0.05)
        else:
            return


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """One that signs itself, for a day."""
    key: EllipticCurvePrivateKey = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    own = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    names = x509.SubjectAlternativeName([own, x509.DNSName(NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def test_words_travel_over_tls(tls_broker: Certified) -> None:
    address = parse_address(f"mqtts://127.0.0.1:{tls_broker.port}", ca_file=str(tls_broker.ca_file))
    assert asyncio.run(says(address)) == b"hello"


@pytest.fixture
def stands_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What NAME and OTHER stand for now; may be changed."""
    found, resolve = list[str](), socket.getaddrinfo

    def resolved(host: str, port: int, *rest: int, **more: int) -> list[object]:
        if host in (NAME, OTHER):
            return [entry for address in found for entry in resolve(address, port, *rest, **more)]
        return list(resolve(host, port, *rest, **more))

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return found


async def says(address: BrokerAddress) -> bytes:
    """What comes back of what is said there."""
    transport = await MqttTransport.connect(address, "ear")
    try:
        arrived = transport.subscribe("t")
        transport.publish("t", b"hello")
        async with asyncio.timeout(5):
            return (await arrived.get())[1]
    finally:
        await transport.close()


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
def test_name_that_was_found_to_be_here_is_not_asked_for_again(
    tls_broker: Certified, mosquitto: Mosquitto, stands_for: list[str], scheme: str
) -> None:
    """Between the check and the connection it comes to stand for somebody else."""
    stands_for[:] = ["::1", "127.0.0.1"]  # nobody listens at the first
    port, ca_file = (tls_broker.port, str(tls_broker.ca_file)) if scheme == "mqtts" else (mosquitto.port, "")
    address = parse_address(f"{scheme}://{NAME}:{port}", ca_file=ca_file)
    stands_for[:] = [ELSEWHERE]
    assert asyncio.run(says(address)) == b"hello"


# paho leaves the socket of a handshake that failed to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_certificate_has_to_be_of_the_name_though_the_connection_goes_to_an_address(
    tls_broker: Certified, stands_for: list[str]
) -> None:
    stands_for[:] = ["127.0.0.1"]
    address = parse_address(f"mqtts://{OTHER}:{tls_broker.port}", ca_file=str(tls_broker.ca_file))
    with pytest.raises(PeerLostError, match=r"certificate is not valid for 'another\.test'"):
        asyncio.run(says(address))
    gc.collect()


# paho leaves the socket of a handshake that failed to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broker_whose_certificate_nobody_signed_is_not_spoken_to(tls_broker: Certified) -> None:
    address = parse_address(f"mqtts://127.0.0.1:{tls_broker.port}", ca_file=str(tls_broker.other_ca_file))
    with pytest.raises(PeerLostError, match="certificate"):
        asyncio.run(MqttTransport.connect(address, "wrong"))
    gc.collect()


def test_ca_file_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="ca_file"):
        asyncio.run(MqttTransport.connect(parse_address("mqtts://127.0.0.1", ca_file=str(tmp_path / "ca.pem")), "x"))
