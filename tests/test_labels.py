import pytest

from fake_images import images_of
from gvit.images.labels import labels_of
from gvit.images.sources.images import Entry
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
    names = sorted(known)
    entries = [Entry("", source, split, -1, None) for source, split in splits.items()]
    for number, name in enumerate(names):
        entries += [Entry("", f"train/{name}/known.JPEG", "train", number, name)]
    return labels_of(tmp_path / "labels.txt", images_of(entries))


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


FLAT = {f"im{i}.jpg": "train" for i in range(4)}
CLASSES = dict(zip(FLAT, ("cat", "dog", "cat", "dog"), strict=True))
FORMS = {
    "a header of other names": ("Filename,Label", "{name},{label}"),
    "an index before": (",path,label", "{i},{name},{label}"),
    "no header": ("", "{name},{label}"),
    "more columns": ("filename,label,split", "{name},{label},train"),
    "label first": ("class,file", "{label},{name}"),
    "one other column": ("id,breed", "{stem},{label}"),
    "ids without suffix": ("", "{stem},{label}"),
    "tabs": ("path\tlabel", "{name}\t{label}"),
    "semicolons": ("path;label", "{name};{label}"),
    "caffe": ("", "{name} {label}"),
    "boxes": ("", "{name}\t{label}\t0\t32\t44\t62"),
    "backslashes": ("path,label", ".\\{name},{label}"),
    "a trailing comma": ("path,label", "{name},{label},"),
    "a mark of byte order": ("\ufeffpath,label", "{name},{label}"),
    "a folder above": ("path,label", "im/{name},{label}"),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_read_as_people_have_them(tmp_path, form):
    header, line = FORMS[form]
    folder = "im/" if form == "a folder above" else ""
    splits = {folder + name: split for name, split in FLAT.items()}
    lines = [
        line.format(i=i, name=name, stem=name[:-4], label=label)
        for i, (name, label) in enumerate(CLASSES.items())
    ]
    text = "\n".join([header, *lines] if header else lines) + "\n"
    assert read(tmp_path, text, splits, frozenset()) == {
        folder + name: kind for name, kind in CLASSES.items()
    }


def test_a_semicolon_within_a_label_cuts_no_table(tmp_path):
    found = read(tmp_path, "im0.jpg,cat;pet\nim1.jpg,dog;pet\n", FLAT, frozenset())
    assert found == {"im0.jpg": "cat;pet", "im1.jpg": "dog;pet"}


def test_a_name_that_means_two_images_means_none(tmp_path):
    splits = {"a/1.jpg": "train", "b/1.jpg": "train", "b/2.jpg": "train"}
    with pytest.raises(GvitError, match=r"line 2: 1\.jpg is no image of the source"):
        read(tmp_path, "2.jpg,dog\n1.jpg,cat\n", splits, frozenset())


def test_of_several_columns_one_must_be_named(tmp_path):
    text = "file,breed,colour\nim0.jpg,collie,black\nim1.jpg,poodle,white\n"
    with pytest.raises(GvitError, match="the columns file, breed, colour; say with --label-column"):
        read(tmp_path, text, FLAT, frozenset())
    images = images_of([Entry("", source, "train", -1, None) for source in FLAT])
    found = labels_of(tmp_path / "labels.txt", images, "colour")
    assert found == {"im0.jpg": "black", "im1.jpg": "white"}
    with pytest.raises(GvitError, match="has no column 'size'; there is file, breed, colour"):
        labels_of(tmp_path / "labels.txt", images, "size")
