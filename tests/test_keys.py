import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.images.sources.keys import changed_keys, plain_key
from gvit.schemas import GvitError

names = st.text(
    st.sampled_from("aAbB1.-_ é日/"),
    min_size=1,
    max_size=6,
).map(lambda text: text + ".png")


def make_keys(sources):
    changed = changed_keys(sources)
    return [changed.get(number, plain_key(source)) for number, source in enumerate(sources)]


def test_a_plain_path_keeps_its_name_without_the_extension():
    assert make_keys(["train/n01440764/n01440764_10026.JPEG"]) == ["train/n01440764/n01440764_10026"]


def test_upper_case_dots_spaces_and_unicode_become_lower_case_and_underscores():
    assert make_keys(["V1.0/My Photo.final.JPG", "Größe.png", "日本.gif"]) == [
        "v1_0/my_photo_final",
        "gr__e",
        "__",
    ]


def test_each_of_the_paths_that_collide_gets_a_suffix_and_the_others_get_none():
    # The suffixes: printf %s a.jpg | sha256sum | head -c 8, and so on.
    assert make_keys(["a.jpg", "b.png", "a.png", "A.jpg"]) == [
        "a-509b0d46",
        "b",
        "a-7f071235",
        "a-c88c8fca",
    ]


def test_a_file_that_is_really_called_like_a_suffixed_key_stays_apart():
    decoy = make_keys(["a.jpg", "a.png"])[0] + ".gif"
    keys = make_keys(["a.jpg", "a.png", decoy])
    assert len(set(keys)) == 3
    assert keys[0].startswith("a-")


def test_a_path_given_twice_is_refused():
    with pytest.raises(GvitError, match="two images have the same path"):
        make_keys(["a.jpg", "a.jpg"])


@given(st.sets(names, max_size=30).map(sorted), st.randoms())
def test_keys_are_unique_and_clean_and_do_not_depend_on_order(sources, random):
    keys = dict(zip(sources, make_keys(sources), strict=True))
    assert len(set(keys.values())) == len(sources)
    assert all(re.fullmatch(r"[a-z0-9_/-]+", key) for key in keys.values())
    shuffled = random.sample(sources, len(sources))
    assert dict(zip(shuffled, make_keys(shuffled), strict=True)) == keys
