"""An agent on opentelemetry-opamp-client, for tests: prints one JSON line for everything that happens to it.

The client speaks plain HTTP, takes no connection settings, and leaves configurations to its application.
"""

import argparse
import datetime
import hashlib
import json
import signal
import sys
import threading
from importlib.metadata import version

from opentelemetry._opamp.agent import OpAMPAgent
from opentelemetry._opamp.callbacks import OpAMPCallbacks
from opentelemetry._opamp.client import OpAMPClient
from opentelemetry._opamp.proto import opamp_pb2

STATUSES = opamp_pb2.RemoteConfigStatuses


def say(event, **about):
    at = datetime.datetime.now(datetime.timezone.utc).isoformat()
    print(json.dumps({"event": event, "at": at, **about}), flush=True)


def pair(separator):
    def split(text):
        name, found, value = text.partition(separator)
        if not found:
            raise argparse.ArgumentTypeError(f"write NAME{separator}VALUE")
        return name.strip(), value.strip()

    return split


class Callbacks(OpAMPCallbacks):
    def __init__(self, on_config, credential):
        self.on_config = on_config
        self.credential = credential

    def on_connect(self, agent, client):
        say("connected", credential=self.credential)

    def on_connect_failed(self, agent, client, error):
        say("connect_failed", error=str(error), credential=self.credential)

    def on_error(self, agent, client, error_response):
        kind = opamp_pb2.ServerErrorResponseType.Name(error_response.type)
        say("server_error", kind=kind, error=error_response.error_message)

    def on_message(self, agent, client, message):
        say("answer")
        if message.remote_config is None:
            return
        received = message.remote_config
        files = {name: file.body.decode() for name, file in received.config.config_map.items()}
        say("config", hash=received.config_hash.hex(), files=sorted(files))
        if self.on_config == "ignore":
            return
        applies = self.on_config == "apply"
        if applies:
            client.update_effective_config(files, "text/yaml")
        status = client.update_remote_config_status(
            remote_config_hash=received.config_hash,
            status=STATUSES.RemoteConfigStatuses_APPLIED if applies else STATUSES.RemoteConfigStatuses_FAILED,
            error_message="" if applies else "this agent was told to fail",
        )
        # Unchanged is not said again.
        if status is not None:
            agent.send(client.build_full_state_message())
            say("config_status", status=STATUSES.Name(status.status))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="where the server is: http or https")
    parser.add_argument("--header", type=pair(":"), action="append", default=[], help="a header of requests, NAME: VALUE")
    parser.add_argument("--ca", help="a file with the only authorities that are trusted, in PEM")
    parser.add_argument("--identifying", type=pair("="), action="append", default=[], help="an identifying attribute, NAME=VALUE")
    parser.add_argument("--other", type=pair("="), action="append", default=[], help="another attribute, NAME=VALUE")
    parser.add_argument("--on-config", choices=["apply", "fail", "ignore"], default="apply")
    parser.add_argument("--heartbeat", type=float, default=30, help="seconds between heartbeats")
    arguments = parser.parse_args()

    headers = dict(arguments.header)
    secret = next((value for name, value in headers.items() if name.lower() == "authorization"), "").split(" ")[-1]
    credential = hashlib.sha256(secret.encode()).hexdigest()[:12] if secret else ""
    client = OpAMPClient(
        endpoint=arguments.url,
        headers=headers,
        agent_identifying_attributes=dict(arguments.identifying),
        agent_non_identifying_attributes=dict(arguments.other),
        tls_certificate=arguments.ca or True,
    )
    agent = OpAMPAgent(
        interval=arguments.heartbeat,
        callbacks=Callbacks(arguments.on_config, credential),
        client=client,
    )
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    say("started", release=version("opentelemetry-opamp-client"))
    say("connecting", over="http", url=arguments.url, credential=credential)
    agent.start()
    ended.wait()
    agent.stop(timeout=5)
    say("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
