import pytest

from gvit.images.labels import read_labels
from gvit.schemas import GvitError

VAL = {f"val/ILSVRC2012_val_{n:08d}.JPEG": "val" for n in (3, 1, 2)}
SPLITS = {"train/n01/a.JPEG": "train", "train/n02/b.JPEG": "train", **VAL}
KNOWN = frozenset({"n01", "n02"})
IN_ORDER = {
    "val/ILSVRC2012_val_00000001.JPEG": "n02",
    "val/ILSVRC2012_val_00000002.JPEG": "n01",
    "val/ILSVRC2012_val_00000003.JPEG": "n02",
}
SOLUTION = """\
ImageId,PredictionString
ILSVRC2012_val_00000003,n02 1 2 3 4 n02 5 6 7 8
ILSVRC2012_val_00000001,n02 1 2 3 4
ILSVRC2012_val_00000002,n01 1 2 3 4
ILSVRC2012_val_00000009,n01 1 2 3 4
"""


def read(tmp_path, text, splits=SPLITS, known=KNOWN):
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    return read_labels(tmp_path / "labels.txt", splits, known)


@pytest.mark.parametrize("text", ["n02\nn01\nn02\n", "n02\r\nn01\r\nn02", SOLUTION])
def test_a_synset_list_or_solution_labels_the_validation_images(tmp_path, text):
    assert read(tmp_path, text) == IN_ORDER


def test_a_synset_list_labels_a_folder_that_is_all_there_is(tmp_path):
    splits = {"b.JPEG": "train", "a.JPEG": "train"}
    assert read(tmp_path, "n07\nn08\n", splits, frozenset()) == {"a.JPEG": "n07", "b.JPEG": "n08"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("n01\nn02\n", "has 2 lines for 3 images"),
        ("n01\nn02\nn03\n", r"line 3: 'n03' is not the name of a class folder"),
        ("490\n361\n171\n", r"line 1: '490' is not the name of a class folder"),
        (SOLUTION.replace("n01", "n03"), r"line 4: 'n03' is not the name"),
        ("\n".join(SOLUTION.splitlines()[:3]), r"has no line for val/ILSVRC2012_val_00000002\.JPEG"),
        (SOLUTION + "ILSVRC2012_val_00000001,n01 1 2 3 4\n", r"line 6: ILSVRC2012_val_00000001 has another"),
        (SOLUTION + "ILSVRC2012_val_00000001\n", "line 6: expected an image and its boxes"),
    ],
)
def test_a_list_that_does_not_fit_the_images_is_refused(tmp_path, text, sentence):
    with pytest.raises(GvitError, match=sentence):
        read(tmp_path, text)


def test_a_list_by_order_is_refused_where_images_lie_in_several_folders(tmp_path):
    splits = {"val/a/1.JPEG": "val", "val/b/2.JPEG": "val"}
    with pytest.raises(GvitError, match="they lie in 2; give a CSV file path,label"):
        read(tmp_path, "n01\nn02\n", splits)


def test_an_empty_file_labels_nothing(tmp_path):
    assert read(tmp_path, "") == {}
