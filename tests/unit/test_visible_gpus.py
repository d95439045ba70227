"""Which GPUs belong to a process: CUDA's rules, and what the user may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.sensors._gpus import Card, Mig, Selected, select


def card(index, uuid=None, **fields):
    fields = {"pci_bus_id": f"00000000:{0x07 + 16 * index:02X}:00.0", "name": "A100", "speed": 312.0} | fields
    return Card(index, uuid or f"GPU-{index}{index}aa0000-1111", **fields)


FOUR = [card(0), card(1), card(2), card(3)]
SLICED = card(
    0,
    "GPU-cafe-01",
    mig=(
        Mig("MIG-aaaa-1", 1, 0, 3, 7),
        Mig("MIG-aaab-2", 2, 0, 2, 7),
        Mig("MIG-b-3", 9, 0, 1, 7),
    ),
)


def chosen(cards, wanted=None, **environment):
    selected, notes = select(cards, wanted, environment)
    return [one.card.index for one in selected], notes


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0", [0]),
        ("2,1", [2, 1]),
        (" 3 , 0 ", [3, 0]),
        ("0,2,-1,1", [0, 2]),  # the example of NVIDIA's own guide
        ("0,9,1", [0]),
        ("-1", []),
        ("NoDevFiles", []),
        ("", []),
        ("  ", []),
        (",0", []),
        ("1,,2", [1]),
        ("1gpu,2", [1, 2]),  # strtoul
        ("1,1", []),  # CUDA: repeated means none
        ("GPU-11aa0000-1111", [1]),
        ("GPU-22,GPU-0", [2, 0]),
        ("GPU-", []),  # names all four
        ("GPU-22,GPU-zz,GPU-0", [2]),
        ("GPU-22,GPU-22aa", []),
        ("GPU-22,0", [2]),  # styles do not mix
        ("0,GPU-22", [0]),
        ("MIG-aaaa-1", []),
    ],
)
def test_cuda_visible_devices_means_what_cuda_makes_of_it(visible, expected):
    assert chosen(FOUR, CUDA_VISIBLE_DEVICES=visible)[0] == expected


def test_without_the_variable_all_are_measured_without_a_word():
    assert chosen(FOUR) == ([0, 1, 2, 3], [])
    assert chosen(FOUR, NVIDIA_VISIBLE_DEVICES="none", LOCAL_RANK="2") == ([0, 1, 2, 3], [])


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        ("0,9,1", "'9' names no GPU"),
        ("GPU-", "'GPU-' names more than one"),
        ("1,1", "repeats '1'"),
        ("", "is empty"),
    ],
)
def test_what_was_cut_is_said(visible, said):
    _, notes = chosen(FOUR, CUDA_VISIBLE_DEVICES=visible)
    assert len(notes) == 1
    assert "CUDA_VISIBLE_DEVICES" in notes[0]
    assert said in notes[0]


# The order that indices count in


MIXED = [
    card(0, pci_bus_id="00000000:81:00.0", name="T4", speed=65.0),
    card(1, pci_bus_id="00000000:3B:00.0", name="V100", speed=125.0),
    card(2, pci_bus_id="00000000:C1:00.0", name="A100", speed=312.0),
]


def test_indices_count_by_pci_address_when_told_so():
    assert chosen(MIXED, CUDA_VISIBLE_DEVICES="0,1", CUDA_DEVICE_ORDER="PCI_BUS_ID") == ([1, 0], [])


def test_indices_of_unlike_gpus_count_from_the_fastest_and_this_is_said():
    found, notes = chosen(MIXED, CUDA_VISIBLE_DEVICES="0,2")
    assert found == [2, 0]
    assert "assumed by FP16 speed" in notes[0]


def test_unlike_gpus_of_unknown_speed_count_by_pci_address_and_this_is_said():
    cards = [*MIXED[:2], card(2, pci_bus_id="00000000:C1:00.0", name="Z9", speed=None)]
    found, notes = chosen(cards, CUDA_VISIBLE_DEVICES="0")
    assert found == [1]
    assert "assumed by PCI address" in notes[0]


def test_uuids_need_no_order():
    assert chosen(MIXED, CUDA_VISIBLE_DEVICES="GPU-0") == ([0], [])


def test_a_gpu_that_does_not_answer_keeps_its_place():
    cards = [card(0), card(1, pci_bus_id="", name="", speed=None, trouble="lost"), card(2)]
    assert chosen(cards, CUDA_VISIBLE_DEVICES="2,1") == ([2, 1], [])


# MIG


def share(cards, wanted=None, **environment):
    (one,), _ = select(cards, wanted, environment)
    return one.share


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("MIG-aaaa-1", (3, 7)),
        ("MIG-aaab", (2, 7)),
        ("MIG-GPU-cafe-01/2/0", (2, 7)),  # the old form
        ("MIG-aaaa-1,MIG-b-3", (4, 7)),  # one card, one device
        ("0", (3, 7)),  # CUDA shows the first MIG device of a card
        ("GPU-cafe-01", (3, 7)),
    ],
)
def test_mig_devices_are_a_share_of_their_card(visible, expected):
    assert share([SLICED, card(1)], CUDA_VISIBLE_DEVICES=visible) == expected


@pytest.mark.parametrize("visible", ["MIG-aaa", "MIG-GPU-cafe-01/2/1", "MIG-c", "MIG-aaaa-1,MIG-aaaa-1"])
def test_mig_names_that_name_nothing_choose_nothing(visible):
    found, notes = chosen([SLICED], CUDA_VISIBLE_DEVICES=visible)
    assert found == []
    assert notes


def test_the_user_may_ask_for_a_mig_device_or_for_its_whole_card():
    assert share([SLICED], ["MIG-b"]) == (1, 7)
    assert share([SLICED], [0]) == (1, 1)
    assert share([SLICED], [0, "MIG-b"]) == (1, 1)
    assert share([SLICED], "all") == (1, 1)
    assert share([SLICED]) == (3, 7)


def test_a_share_that_the_driver_does_not_tell_is_not_known():
    assert Selected(SLICED, (Mig("MIG-x", 1, 0, None, 7),)).share is None
    assert Selected(SLICED, (Mig("MIG-x", 1, 0, 5, 7), Mig("MIG-y", 2, 0, 5, 7))).share == (7, 7)


# What the user asks for


def test_the_user_overrides_the_environment():
    assert chosen(FOUR, "all", CUDA_VISIBLE_DEVICES="") == ([0, 1, 2, 3], [])
    assert chosen(FOUR, [3, "GPU-11", "0", 3, "22aa"], CUDA_VISIBLE_DEVICES="1") == ([3, 1, 0, 2], [])
    assert chosen(FOUR, "2,0", CUDA_VISIBLE_DEVICES="1") == ([2, 0], [])
    assert chosen(FOUR, [], CUDA_VISIBLE_DEVICES="1") == ([], [])


def test_the_users_indices_are_nvidia_smis():
    assert chosen(MIXED, [0]) == ([0], [])


@pytest.mark.parametrize("wrong", [7, "7", "GPU-zz", "GPU-", "", "MIG-zz", -1])
def test_a_wrong_wish_is_refused_with_what_would_be_right(wrong):
    with pytest.raises(SettingsError) as caught:
        select([*FOUR[1:], SLICED], [wrong], {})
    assert repr(wrong) in str(caught.value)
    assert "1 (GPU-11aa0000-1111)" in str(caught.value)
    assert "MIG-aaab-2" in str(caught.value)


@given(st.text(alphabet="0123,-GPUMIG a/", max_size=20), st.sampled_from(["", "PCI_BUS_ID", "FASTEST_FIRST"]))
def test_no_value_of_the_environment_breaks_it_or_counts_a_card_twice(visible, order):
    found, _ = chosen([SLICED, *MIXED[1:]], CUDA_VISIBLE_DEVICES=visible, CUDA_DEVICE_ORDER=order)
    assert len(found) == len(set(found))
