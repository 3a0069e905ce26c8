import io
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gvit.images.decode import DecodeError
from gvit.images.open import list_images, locate, open_source
from gvit.images.reading import read_reference
from gvit.images.references import FilePart
from gvit.images.sources import tar_list
from gvit.images.sources.source import Hints
from gvit.images.sources.split_names import DEFAULT_SPLIT, split_named_by_file
from gvit.images.sources.tar import TarSource
from gvit.schemas import GvitError
from packed_sources import digit_files, digit_members, write_digit_tars, write_tar

PNG, _ = digit_files(1)
IMAGE = PNG[0]


def scan(*members, path, form=tarfile.PAX_FORMAT):
    write_tar(path, members, form)
    return open_source(path).scan()


def sources(listing):
    return [entry.source for entry in listing.entries]


@pytest.fixture
def tar(tmp_path):
    return tmp_path / "a.tar"


# ---------------------------------------------------------------- what is found


def test_a_folder_of_tar_files_gives_its_images_with_splits_and_labels(tmp_path):
    source = open_source(write_digit_tars(tmp_path, 40))
    assert isinstance(source, TarSource)
    listing = source.scan()
    files, labels = digit_files(40, "jpeg")
    assert listing.splits == {"train": 30, "val": 10}
    assert listing.classes == tuple("0123456789")
    assert [entry.label for entry in listing.entries] == labels
    assert [entry.class_name for entry in listing.entries] == [str(label) for label in labels]
    assert [read_reference(source.reference(entry)) for entry in listing.entries] == files
    assert listing.entries[0].source == "train-000000.tar/000000.jpg"
    assert listing.entries[0].key == "train-000000_tar/000000"
    assert listing.ignored == 0


def test_a_label_is_its_number_also_where_sorting_text_would_say_otherwise(tar):
    labels = [2, 10, 100, -1]
    members = [(f"{i}.png", IMAGE) for i in range(4)]
    members += [(f"{i}.cls", b"%d\n" % label) for i, label in enumerate(labels)]
    listing = scan(*members, ("4.png", IMAGE), path=tar)
    assert [entry.label for entry in listing.entries] == [2, 10, 100, -1, -1]
    assert [entry.class_name for entry in listing.entries] == ["002", "010", "100", None, None]
    assert list(listing.classes) == sorted(listing.classes)
    assert len(listing.classes) == 101


def test_the_name_of_a_file_or_folder_says_the_split():
    splits = {
        "train-000.tar": "train",
        "val-0.tar": "val",
        "validation-0.tar": "val",
        "test-0.parquet": "test",
        "imagenet1k-validation-00.tar": "val",
        "val/0000.tar": "val",
        "val/train-1.tar": "train",
        "data/test-00000-of-00001.parquet": "test",
        "trainer/value.tar": "train",
        "valid-000.tar": "val",
        "data/dev-00000-of-00001.parquet": "val",
        "Evaluation/0.tar": "test",
    }
    assert {name: split_named_by_file(name) or DEFAULT_SPLIT for name in splits} == splits


def test_a_sample_is_what_shares_a_path_up_to_the_first_dot(tar):
    members = [
        ("./a/1.png", IMAGE),
        ("./a/1.cls", b"1"),
        ("a/1.mask.png", IMAGE),
        ("a/1.json", b"{}"),
        ("b/1.jpeg", IMAGE),
        ("c/x.2020.01.02.png", IMAGE),
        ("c/x.2020.01.03.PNG", IMAGE),
        ("._hidden.png", IMAGE),
        (".cache/2.png", IMAGE),
    ]
    listing = scan(*members, path=tar)
    found = {entry.source.removeprefix("a.tar/"): entry.label for entry in listing.entries}
    assert found == {"a/1.png": 1, "b/1.jpeg": -1, "c/x.2020.01.02.png": -1, "c/x.2020.01.03.PNG": -1}
    assert listing.ignored == 4


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_gives_long_and_unicode_names(tar, form):
    names = ["d" * 60 + "/" + "n" * 60 + ".png", "Größe.png"]
    if form != tarfile.USTAR_FORMAT:
        names.append("e" * 90 + "/" + "é" * 100 + ".png")
    listing = scan(*[(name, IMAGE) for name in names], path=tar, form=form)
    assert sources(listing) == sorted(f"a.tar/{name}" for name in names)


def test_a_size_in_a_pax_header_counts(tar):
    member = tarfile.TarInfo("1.png")
    member.size = len(IMAGE)
    member.pax_headers = {"size": str(len(IMAGE))}
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(member, io.BytesIO(IMAGE))
    source = open_source(tar)
    (entry,) = source.scan().entries
    assert read_reference(source.reference(entry)) == IMAGE


def test_a_folder_with_images_and_tar_files_is_a_folder_of_images(tmp_path, tar):
    write_tar(tar, [("1.png", IMAGE)])
    (tmp_path / "2.png").write_bytes(IMAGE)
    assert sources(open_source(tmp_path).scan()) == ["2.png"]


def test_the_image_of_a_row_is_found_again(tmp_path):
    write_digit_tars(tmp_path, 8)
    for root in (tmp_path, tmp_path / "val-000000.tar"):
        assert read_reference(locate(root, "val-000000.tar/000006.jpg")) == digit_files(7, "jpeg")[0][6]
        assert locate(root, "val-000000.tar/000000.jpg") is None


# ---------------------------------------------------------------- where labels come from


@pytest.mark.parametrize(
    ("label", "classes", "told"),
    [
        (("1.class.txt", b"dog\n"), ("dog",), "members .class.txt"),
        (("1.cls", b"dog"), ("dog",), "members .cls"),
        (("1.json", b'{"caption": "x", "label": 1}'), ("0", "1"), "the field 'label' of members .json"),
        (("1.json", b'{"class_name": "dog"}'), ("dog",), "the field 'class_name' of members .json"),
        (("1.json", b'{"caption": "x"}'), (), ""),
        (("1.json", b"["), (), ""),
    ],
)
def test_labels_are_found_in_members_of_several_kinds(tar, label, classes, told):
    listing = scan(("1.png", IMAGE), label, path=tar)
    assert (listing.classes, listing.labels_from) == (classes, told)


def test_names_with_dots_have_the_label_of_their_own(tar):
    members = [(f"x.{i}.{end}", data) for i in range(2) for end, data in (("png", IMAGE), ("cls", b"%d" % i))]
    assert [entry.label for entry in scan(*members, path=tar).entries] == [0, 1]


def test_a_field_that_is_named_is_the_label(tar):
    fields = b'{"label": 3, "kind": "dog", "size": [1]}'
    write_tar(tar, [("1.png", IMAGE), ("1.json", fields), ("1.cls", b"0")])
    assert open_source(tar).scan(Hints(label_column="kind")).classes == ("dog",)
    with pytest.raises(GvitError, match=r"'size' of '1\.json' is \[1\]; a label is a whole number or text"):
        open_source(tar).scan(Hints(label_column="size"))


def test_folders_within_a_tar_file_are_read_as_a_folder_of_images(tar):
    paths = ["in/train/cat/1.png", "in/train/dog/1.png", "in/val/dog/1.png"]
    listing = scan(*[(path, IMAGE) for path in paths], path=tar)
    assert listing.splits == {"train": 2, "val": 1}
    assert [entry.class_name for entry in listing.entries] == ["cat", "dog", "dog"]
    assert listing.labels_from == "the folders within the tar files"


def test_a_tar_file_per_class_as_imagenet_is_distributed(tmp_path):
    for name in ("n01440764", "n01443537"):
        write_tar(tmp_path / "train" / f"{name}.tar", [(f"{name}_{i}.JPEG", IMAGE) for i in range(2)])
    write_tar(
        tmp_path / "val" / "ILSVRC2012_img_val.tar", [(f"ILSVRC_val_{i}.JPEG", IMAGE) for i in range(2)]
    )
    listing = open_source(tmp_path).scan()
    assert listing.splits == {"train": 4, "val": 2}
    assert listing.classes == ("n01440764", "n01443537")
    (tmp_path / "labels.csv").write_text("ILSVRC_val_1.JPEG,n01440764\nILSVRC_val_0.JPEG,n01443537\n")
    labelled = list_images(open_source(tmp_path), Hints(labels=tmp_path / "labels.csv"))
    assert labelled.entries.label_counts("val") == {"n01440764": 1, "n01443537": 1}


def test_shards_whose_images_begin_with_their_number_are_no_classes(tmp_path):
    for number in range(2):
        members = [(f"{number:05d}{i:04d}.jpg", IMAGE) for i in range(2)]
        write_tar(tmp_path / f"{number:05d}.tar", members)
    assert open_source(tmp_path).scan().classes == ()


def test_many_tar_files_listed_in_processes_give_what_one_process_gives(tmp_path, monkeypatch):
    source = open_source(write_digit_tars(tmp_path, 40))
    alone = source.scan()
    monkeypatch.setattr(tar_list, "_WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(tar_list, "usable_cores", lambda: 2)
    assert list(source.scan().entries) == list(alone.entries)
    (tmp_path / source.files[0]).write_bytes(b"no tar")
    with pytest.raises(GvitError, match="no tar file"):
        source.scan()


def test_what_is_kept_of_a_sample_is_found(tar):
    write_tar(tar, [("1.png", IMAGE), ("1.txt", "Größe".encode()), ("2.png", IMAGE), ("2.json", b"{}")])
    listing = open_source(tar).scan(Hints(keep=("txt", "json")))
    assert listing.extras.of(list(listing.entries)) == [
        {"txt": "Größe", "json": None},
        {"txt": None, "json": "{}"},
    ]


# ---------------------------------------------------------------- what is refused


def special(name, kind, **fields):
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        (("/etc/1.png", IMAGE), r"'/etc/1\.png' leads out of the folder"),
        (("../1.png", IMAGE), r"'\.\./1\.png' leads out of the folder"),
        (("a/../../1.cls", b"1"), r"leads out of the folder"),
        (special("7.png", tarfile.SYMTYPE, linkname="/etc/passwd"), r"'7\.png' is a link or no file"),
        (special("7.png", tarfile.LNKTYPE, linkname="2.png"), r"is a link or no file"),
        (special("7.png", tarfile.CHRTYPE, devmajor=1, devminor=5), r"is a link or no file"),
        (special("7.png", tarfile.FIFOTYPE), r"is a link or no file"),
        (("1.cls", b"1.5"), r"'1\.cls' is '1\.5'; a label is a whole number"),
        (("1.cls", b"a\x00t"), r"a label is a whole number"),
        (("1.cls", b"-2"), r"'1\.cls' is '-2'"),
        (("1.cls", b"1" * 40), r"a label is a whole number"),
        (("1.cls", b"999999999999"), r"a label is 999999999999"),
        (("ok.png", IMAGE), r"holds 'ok\.png' twice"),
    ],
)
def test_a_hostile_or_broken_member_is_refused_by_name(tar, member, sentence):
    members = [("ok.png", IMAGE), member]
    with pytest.raises(GvitError, match=sentence):
        scan(*members, ("9.png", IMAGE), ("1.png", IMAGE), path=tar, form=tarfile.GNU_FORMAT)


def test_a_member_whose_name_is_no_text_is_read_all_the_same(tar):
    listing = scan((b"\xff.png".decode("utf-8", "surrogateescape"), IMAGE), ("1.png", IMAGE), path=tar)
    assert sources(listing) == ["a.tar/1.png", "a.tar/\\xff.png"]


def test_links_and_devices_that_are_no_images_are_passed_over(tar):
    members = [
        special("latest", tarfile.SYMTYPE, linkname="/"),
        special("tty", tarfile.CHRTYPE),
        ("1.png", IMAGE),
    ]
    listing = scan(*members, special("folder", tarfile.DIRTYPE), path=tar)
    assert (sources(listing), listing.ignored) == (["a.tar/1.png"], 2)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])
def test_a_size_of_what_has_no_data_does_not_hide_the_next_images(tar, kind):
    write_tar(tar, [("1.png", IMAGE), ("2.png", IMAGE)])
    header = tarfile.TarInfo("latest")
    header.type, header.size = kind, 2 * tarfile.BLOCKSIZE
    tar.write_bytes(header.tobuf() + tar.read_bytes())
    with tarfile.open(tar) as known:
        assert known.getnames() == ["latest", "1.png", "2.png"]
    assert sources(open_source(tar).scan()) == ["a.tar/1.png", "a.tar/2.png"]


def test_a_tar_file_that_is_cut_short_is_refused_wherever_it_is_cut(tar):
    write_tar(tar, digit_members(0, 3))
    whole = tar.read_bytes().rstrip(b"\0")
    for length in range(1, len(whole) + 100, 41):
        tar.write_bytes(whole.ljust(len(whole) + 100, b"\0")[:length])
        with pytest.raises(GvitError, match=r"cannot be used: it (is cut short|is no tar|ends without)"):
            open_source(tar).scan()


@pytest.mark.parametrize("size", [2**20, 2**40, 2**62])
def test_a_huge_declared_size_is_refused_without_allocating_it(tar, size):
    member = tarfile.TarInfo("1.png")
    member.size = size
    tar.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    tracemalloc.start()
    with pytest.raises(GvitError, match="is cut short: 1536 bytes where a member needs"):
        open_source(tar).scan()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_huge_name_or_pax_header_is_refused(tar):
    member = special("long", tarfile.GNUTYPE_LONGNAME, size=2**30)
    tar.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2**17))
    with pytest.raises(GvitError, match="has 1073741824 bytes"):
        open_source(tar).scan()


@pytest.mark.parametrize("records", [b"path=a\n", b"0 a=b\n", b"1 a=b\n", b"-5 a=b\n", b"9" * 400])
def test_a_malformed_pax_header_is_refused(tar, records):
    member = special("x", tarfile.XHDTYPE, size=len(records))
    tar.write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + bytes(1024))
    with pytest.raises(GvitError, match="the extended header at byte 0 cannot be read"):
        open_source(tar).scan()


def test_a_negative_size_cannot_lead_backwards(tar):
    header = bytearray(tarfile.TarInfo("1.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12  # -1 in base 256
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    tar.write_bytes(bytes(header) * 3 + bytes(1024))
    with pytest.raises(GvitError, match="no header at byte 0"):
        open_source(tar).scan()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is no tar file"),
        (b"no tar", "it is no tar file"),
        (b"\x1f\x8b" + bytes(1000), "it is no tar file, or a compressed one: unpack it"),
        (bytes(1024), "holds no image"),
    ],
)
def test_what_is_no_tar_file_is_refused(tar, content, sentence):
    tar.write_bytes(content)
    with pytest.raises(GvitError, match=sentence):
        open_source(tar).scan()


def test_joined_tar_files_do_not_lose_the_second_without_a_word(tar, tmp_path):
    one = write_tar(tmp_path / "1.tar", [("1.png", IMAGE)]).read_bytes()
    tar.write_bytes(one + one)
    with pytest.raises(GvitError, match="goes on after its end mark"):
        open_source(tar).scan()


def test_sparse_members_are_refused(tar):
    member = tarfile.TarInfo("1.png")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "1.png"}
    with pytest.raises(GvitError, match="sparse"):
        scan(member, path=tar)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["a.tar", "b.parquet"], r"holds \.tar and \.parquet files"),
        (["a.tar.gz"], "is compressed; unpack it"),
        (["a.tgz", "b.txt"], "is compressed; unpack it"),
        (["a.tar", "b.tar.gz"], r"b\.tar\.gz is compressed; unpack it"),
        (["a.txt"], "holds no image"),
    ],
)
def test_a_folder_of_the_wrong_files_is_refused(tmp_path, files, sentence):
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(GvitError, match=sentence):
        open_source(tmp_path).scan()


def test_a_tar_file_that_shrank_after_it_was_listed_costs_its_images_only(tar):
    write_tar(tar, [("1.png", IMAGE)])
    source = open_source(tar)
    (entry,) = source.scan().entries
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(DecodeError, match="shorter than it was"):
        read_reference(source.reference(entry))
    tar.unlink()
    with pytest.raises(DecodeError, match="it does not exist"):
        read_reference(source.reference(entry))
    tar.touch()
    with pytest.raises(DecodeError, match="shorter than it was"):
        read_reference(FilePart(str(tar), 0, 2**60))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_flipped_only_our_own_error_comes_out(tar, data):
    write_tar(tar, [("é" * 120 + ".png", IMAGE), ("1.png", IMAGE), ("1.cls", b"3")])
    content = bytearray(tar.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 6000) | st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    tar.write_bytes(content)
    source = open_source(tar)
    try:
        listing = source.scan()
    except GvitError:
        return
    for entry in listing.entries:
        assert len(read_reference(source.reference(entry))) <= len(content)
