"""PresenceService, asked by a client that grpcio generates from our .proto files, as a backend would."""

import os
import sys
import tempfile
import unittest
from pathlib import Path

import grpc
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parents[2] / "proto" / "protos"
ADDRESS = os.environ["SWITCHBOARD_PRESENCE"]
KEY = os.environ["SWITCHBOARD_API_KEY"]
DEADLINE = 15


def generated():
    folder = tempfile.mkdtemp()
    files = sorted(str(path) for path in (PROTOS / "switchboard" / "presence").glob("*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc does not take our files")
    sys.path.insert(0, folder)
    from switchboard.presence import service_pb2, service_pb2_grpc, user_pb2

    return service_pb2, service_pb2_grpc, user_pb2


service, stubs, users = generated()


class Presence(unittest.TestCase):
    def setUp(self):
        self.channel = grpc.insecure_channel(ADDRESS)
        self.stub = stubs.PresenceServiceStub(self.channel)
        self.metadata = [("authorization", f"apikey {KEY}")]
        self.addCleanup(self.channel.close)

    def ask(self, method, request):
        return getattr(self.stub, method)(request, metadata=self.metadata, timeout=DEADLINE)

    def refused(self, code, method, request, metadata=None):
        with self.assertRaises(grpc.RpcError) as caught:
            getattr(self.stub, method)(request, metadata=metadata or self.metadata, timeout=DEADLINE)
        self.assertEqual(caught.exception.code(), code)

    def test_without_the_key_nothing_is_told(self):
        request = service.GetUsersRequest(users=["alice"])
        self.refused(grpc.StatusCode.UNAUTHENTICATED, "GetUsers", request, [("authorization", "apikey wrong-key-of-nobody")])

    def test_users_are_told_and_set_and_changes_are_streamed(self):
        name = "of-a-backend"
        watch = service.WatchRequest(users=[name], channels=True)
        stream = self.stub.Watch(watch, metadata=self.metadata, timeout=4 * DEADLINE)
        first = next(stream)
        self.assertEqual((first.user.user, first.user.status), (name, users.STATUS_OFFLINE))
        self.ask("SetUser", service.SetUserRequest(user=name, visibility=users.VISIBILITY_NOBODY))
        changed = next(event for event in stream if event.WhichOneof("event") == "user")
        self.assertEqual(changed.user.visibility, users.VISIBILITY_NOBODY)
        found = self.ask("GetUser", service.GetUserRequest(user=name))
        self.assertEqual(found.presence.visibility, users.VISIBILITY_NOBODY)
        many = self.ask("GetUsers", service.GetUsersRequest(users=[name, "nobody", name]))
        self.assertEqual([user.user for user in many.users], [name, "nobody", name])
        stream.cancel()

    def test_channels_are_told(self):
        channel = os.environ["SWITCHBOARD_CHANNEL"]
        members = self.ask("ChannelMembers", service.ChannelMembersRequest(channel=channel))
        self.assertEqual([member.user for member in members.members], [os.environ["SWITCHBOARD_USER"]])
        counts = self.ask("ChannelCounts", service.ChannelCountsRequest(channels=[channel, "room:empty"]))
        self.assertEqual([(count.clients, count.users) for count in counts.counts], [(1, 1), (0, 0)])

    def test_what_makes_no_sense_is_refused(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        self.refused(invalid, "GetUsers", service.GetUsersRequest())
        self.refused(invalid, "GetUsers", service.GetUsersRequest(users=["u"] * 1001))
        self.refused(invalid, "SetUser", service.SetUserRequest(user="", status=users.STATUS_BUSY))
        self.refused(invalid, "SetUser", service.SetUserRequest(user="u", status=users.STATUS_OFFLINE))
        self.refused(invalid, "ChannelMembers", service.ChannelMembersRequest(channel=""))
        stream = self.stub.Watch(service.WatchRequest(users=["u"] * 1001), metadata=self.metadata, timeout=DEADLINE)
        with self.assertRaises(grpc.RpcError) as caught:
            next(stream)
        self.assertEqual(caught.exception.code(), invalid)


if __name__ == "__main__":
    unittest.main()
