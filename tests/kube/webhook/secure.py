"""Certificates of tests, and an independent HTTPS client (http.client, in threads)."""

import datetime
import http.client
import json
import socket
import ssl

from twisted.internet.threads import deferToThread

from peerpods.kube.webhook.authority import new_authority, new_certificate

DAY = datetime.timedelta(days=1)


def now():
    return datetime.datetime.now(datetime.UTC)


def authority(at=None, life=10 * DAY):
    return new_authority(at or now(), life)


def certificate(ca, names=("localhost", "127.0.0.1"), at=None, life=DAY):
    return new_certificate(ca, names, at or now(), life)


def client_context(ca, **fields):
    context = ssl.create_default_context(cadata=ca.cert)
    for name, value in fields.items():
        setattr(context, name, value)
    return context


class Client:
    """One connection that stays open, as the API server's."""

    def __init__(self, port, ca, host="127.0.0.1", **fields):
        self.connection = http.client.HTTPSConnection(host, port, timeout=10, context=client_context(ca, **fields))

    def call(self, method, path, body=None, headers=None):
        """(status, headers, decoded body)."""
        if headers is None:
            headers = {"Content-Type": "application/json"}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        raw = answer.read()
        return answer.status, dict(answer.getheaders()), json.loads(raw)

    def review(self, document):
        return self.call("POST", "/mutate-v1-pod?timeout=10s", json.dumps(document).encode())

    def shown(self):
        """The certificate of the server, DER."""
        if self.connection.sock is None:
            self.connection.connect()
        return self.connection.sock.getpeercert(binary_form=True)

    def close(self):
        self.connection.close()


def in_thread(call, *args, **kwargs):
    return deferToThread(call, *args, **kwargs)


def raw_tls(port, ca):
    """A TLS socket."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    return client_context(ca).wrap_socket(plain, server_hostname="127.0.0.1")
