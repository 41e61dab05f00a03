"""Compares a JUnit result of ceph/s3-tests with the lists of tests that must pass and that are expected to fail.

pass.txt: one test id a line. expected-fail.txt: `reason test-id`, the reason one of REASONS. A test that is skipped by
the suite itself stands in neither list. Exit 1 when a listed pass fails, a listed failure passes (move it), or a result
is not listed. With --whole, after a run of everything, a listed pass that did not run is wrong too.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

REASONS = {
    "policy", "acl", "versioning", "encryption", "lifecycle", "tagging", "other-unbuilt-feature", "ceph-dialect",
}


def results(path):
    """Test id (`test_s3::test_name`) to `passed`, `failed` or `skipped`."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        module = case.get("classname", "").rsplit(".", 1)[-1]
        kinds = {child.tag for child in case}
        name = f"{module}::{case.get('name')}"
        if kinds & {"failure", "error"}:
            found[name] = "failed"
        elif "skipped" in kinds:
            found.setdefault(name, "skipped")
        else:
            found.setdefault(name, "passed")
    return found


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [line.split() for line in file if line.strip() and not line.startswith("#")]


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--whole"]
    is_whole = len(arguments) < len(sys.argv) - 1
    found = results(arguments[0])
    must_pass = {words[0] for words in lines(arguments[1])}
    may_fail = {words[1]: words[0] for words in lines(arguments[2])}
    wrong = [f"{name}: unknown reason {reason}" for name, reason in may_fail.items() if reason not in REASONS]
    wrong += [f"{name}: in both lists" for name in sorted(must_pass & may_fail.keys())]
    for name, result in sorted(found.items()):
        if result == "failed" and name in must_pass:
            wrong.append(f"{name}: must pass, but failed")
        elif result == "passed" and name in may_fail:
            wrong.append(f"{name}: passes now: move it from expected-fail.txt to pass.txt")
        elif result == "skipped" and name in must_pass:
            wrong.append(f"{name}: must pass, but was skipped")
        elif result != "skipped" and name not in must_pass and name not in may_fail:
            wrong.append(f"{name}: {result}, but stands in no list")
    if is_whole:
        wrong += [f"{name}: must pass, but did not run" for name in sorted(must_pass - found.keys())]
    for line in wrong:
        print(line)
    reasons = Counter(may_fail[name] for name, result in found.items() if result == "failed" and name in may_fail)
    for reason, count in sorted(reasons.items()):
        print(f"expected failures for {reason}: {count}")
    total = Counter(found.values())
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
