"""Are the files of the wheel and of the sdist those that they should be? python .ci/contents.py dist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def written(folder: str) -> set[str]:
    """The files of a folder that the repository holds."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=HERE, check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


def of_wheel(path: Path) -> tuple[set[str], set[str]]:
    """The files of the package, and the names of those beside it."""
    names = set(zipfile.ZipFile(path).namelist())
    return {n for n in names if ".dist-info/" not in n}, {
        n.split(".dist-info/")[1] for n in names if ".dist-info/" in n
    }


def of_sdist(path: Path) -> set[str]:
    """Its files, without the folder that holds them."""
    with tarfile.open(path) as file:
        return {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}


def main(folder: Path) -> None:
    """Say what is too much and what is missing; an error where anything is."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    package, beside = of_wheel(wheel)
    assert package == written("skvae"), f"wheel: {sorted(package ^ written('skvae'))}"
    assert "skvae/py.typed" in package
    assert {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"} <= beside, sorted(beside)
    source, wanted = of_sdist(sdist), written("skvae") | {"LICENSE", "README.md", "pyproject.toml"}
    assert wanted <= source, f"sdist lacks {sorted(wanted - source)}"
    folders = {name.partition("/")[0] for name in source if "/" in name}
    assert not folders & {"benchmarks", ".ci", ".github"}, sorted(folders)
    print(f"contents: {len(package)} files in {wheel.name}, {len(source)} in {sdist.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
