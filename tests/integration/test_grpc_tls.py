"""TLS between the proxy and auth, one-sided and mutual."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from harness.auth import CREDENTIAL, LOOPBACK, Identity, asking, cannot_be_checked, serving
from ibex.adapters.grpc.server import ServerSecurity
from ibex.adapters.grpc.tls import ClientTls, ServerTls
from ibex.adapters.grpc.verifiers import GrpcTokenVerifier


@pytest.fixture
async def identity() -> Identity:
    """The identity that the server serves."""
    return await Identity.settled()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The certificate authority of both ends."""
    return trustme.CA()


def server_tls(authority: trustme.CA, client_authority: trustme.CA | None = None) -> ServerSecurity:
    """Return the TLS settings of the server."""
    issued = authority.issue_cert(LOOPBACK, "localhost")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    client_ca = client_authority.cert_pem.bytes() if client_authority else None
    return ServerSecurity(CREDENTIAL, ServerTls(chain, issued.private_key_pem.bytes(), client_ca))


def client_tls(authority: trustme.CA, issuer: trustme.CA | None = None) -> ClientTls:
    """Return the TLS settings of a client, with a certificate of an issuer."""
    if issuer is None:
        return ClientTls(authority.cert_pem.bytes())
    issued = issuer.issue_cert("proxy.example")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return ClientTls(authority.cert_pem.bytes(), chain, issued.private_key_pem.bytes())


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls_connects_trusted_ends(identity: Identity, authority: trustme.CA, *, mutual: bool) -> None:
    """The server presents a certificate, and the client too if it is required."""
    security = server_tls(authority, authority if mutual else None)
    tls = client_tls(authority, authority if mutual else None)
    async with serving(identity, security=security) as server, asking(server.port, tls=tls) as channel:
        await channel.ping()
        fetched = await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)

    assert fetched.value.org_id == identity.org.id


async def test_each_replica_has_a_certificate_for_its_configured_address(
    identity: Identity, authority: trustme.CA
) -> None:
    """One is for an IP address, one for a name that is resolved. A third, for another name, gets no call."""
    issued = authority.issue_cert("auth.example")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    foreign = ServerSecurity(CREDENTIAL, ServerTls(chain, issued.private_key_pem.bytes()))
    other = await Identity.settled()
    async with (
        serving(identity, security=server_tls(authority)) as server,
        serving(other, security=foreign) as impostor,
        asking((server.port, impostor.port), tls=client_tls(authority)) as by_address,
        asking(server.port, tls=client_tls(authority), host="localhost") as by_name,
    ):
        for channel in (by_address, by_name):
            await channel.connected()
            for _ in range(4):
                await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)

    assert identity.store.finds > 0
    assert other.store.finds == 0


@pytest.mark.parametrize("end", ["plaintext", "untrusted server", "no certificate", "another authority's"])
async def test_tls_refuses_untrusted_ends(identity: Identity, authority: trustme.CA, end: str) -> None:
    """This is an outage. The client sends neither a credential nor a token."""
    tls = {
        "plaintext": None,
        "untrusted server": client_tls(trustme.CA(), authority),
        "no certificate": client_tls(authority),
        "another authority's": client_tls(authority, trustme.CA()),
    }[end]
    security = server_tls(authority, authority)
    async with serving(identity, security=security) as server, asking(server.port, tls=tls, timeout_s=1) as channel:
        await cannot_be_checked(channel, identity)

    assert identity.store.finds == 0


async def test_a_server_with_another_name_is_refused(identity: Identity, authority: trustme.CA) -> None:
    """Its certificate must be for the address that the client calls."""
    issued = authority.issue_cert("auth.example")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    security = ServerSecurity(CREDENTIAL, ServerTls(chain, issued.private_key_pem.bytes()))
    tls = client_tls(authority)
    async with serving(identity, security=security) as server, asking(server.port, tls=tls, timeout_s=1) as channel:
        await cannot_be_checked(channel, identity)


async def test_the_port_speaks_current_tls(identity: Identity, authority: trustme.CA) -> None:
    """Any client that trusts its CA can connect."""
    async with serving(identity, security=server_tls(authority)) as server:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(LOOPBACK, server.port, ssl=context)
        version = writer.get_extra_info("ssl_object").version()
        writer.close()

    assert version in {"TLSv1.2", "TLSv1.3"}


async def test_both_ends_change_their_certificates_while_they_run(identity: Identity, authority: trustme.CA) -> None:
    """New connections use them. A client that a server would refuse keeps its connections."""
    other = trustme.CA()
    certificate = server_tls(other, authority).tls
    assert certificate is not None
    async with (
        serving(identity, security=server_tls(authority, authority)) as server,
        asking(server.port, tls=client_tls(authority, authority)) as channel,
    ):
        await channel.ping()
        with pytest.raises(ValueError, match="does not accept"):
            await channel.change_tls(client_tls(other, authority))
        await channel.ping()
        assert server.change_tls(certificate)
        assert not server.change_tls(certificate)
        await channel.ping()
        assert await channel.change_tls(client_tls(other, authority))
        await channel.ping()
        with pytest.raises(ValueError, match="without a restart"):
            server.change_tls(ServerTls(certificate.certificate, certificate.key))
