"""clickproof.proto: the code beside it is what protoc makes of it, it says what each field means, and means what REST means."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from serving import clickproof_pb2 as pb
from serving import messages

SERVING = Path(pb.__file__).parent


def protoc(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(SERVING), *arguments, str(SERVING / "clickproof.proto")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_checked_in_code_is_what_protoc_makes_of_the_file(tmp_path: Path) -> None:
    protoc(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}")
    for name in ("clickproof_pb2.py", "clickproof_pb2.pyi"):
        made, there = (tmp_path / name).read_bytes(), (SERVING / name).read_bytes()
        assert made == there, f"serving/{name} is not made from clickproof.proto, whose head has the command that makes it"


def test_every_message_field_and_method_says_what_it_means(tmp_path: Path) -> None:
    protoc("--include_source_info", f"--descriptor_set_out={tmp_path / 'set'}")
    (file,) = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    said = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    wanted = [(4, i) for i in range(len(file.message_type))]
    wanted += [(4, i, 2, j) for i, one in enumerate(file.message_type) for j in range(len(one.field))]
    wanted += [(6, 0), (6, 0, 2, 0)]  # the service and its method
    assert len(wanted) > 30
    assert [path for path in wanted if len(said[path]) < 8] == []


@pytest.mark.parametrize(
    ("message", "struct"),
    [(pb.RankAnswer, messages.RankAnswer), (pb.ShownAd, messages.ShownAd), (pb.AnswerMarks, messages.AnswerMarks)],
)
def test_an_answer_has_the_fields_of_rest(message: type, struct: type) -> None:
    assert [field.name for field in message.DESCRIPTOR.fields] == [field.name for field in msgspec.structs.fields(struct)]


def test_a_request_has_the_fields_of_rest_and_bids() -> None:
    names = {field.name for field in pb.RankRequest.DESCRIPTOR.fields}
    assert names == {field.name for field in msgspec.structs.fields(messages.RankBody)} | {"bids"}
