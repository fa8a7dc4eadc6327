"""Every link of the documents leads somewhere, and the README stays short."""

import pytest
from documents import DOCUMENTS, REPOSITORY, anchors, links, relative

# The sites that the documents may send a reader to; nothing else is checked about them, since tests use no network.
SITES = (
    "https://github.com/hiyouga/LLaMA-Factory",
    "https://github.com/hlt-mt/simulstream",
    "https://iwslt.org/",
    "https://arxiv.org/abs/",
    "https://keepachangelog.com/",
    "https://semver.org/",
)


def test_the_documents_are_there():
    names = {relative(path) for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/README.md", "recipes/QUICKSTART.md"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_link_leads_to_a_file_and_a_heading(path):
    broken = []
    for link in links(path):
        target, _, anchor = link.partition("#")
        if link.startswith("http"):
            broken += [] if link.startswith(SITES) else [link]
            continue
        found = (path.parent / target).resolve() if target else path
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(link)
    assert broken == []


def test_the_index_of_docs_names_every_page():
    index = REPOSITORY / "docs" / "README.md"
    text = index.read_text(encoding="utf-8")
    assert [path.name for path in index.parent.glob("*.md") if path != index and path.name not in text] == []


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
