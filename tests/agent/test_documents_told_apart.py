"""Documents with one name are all read."""

from edgeagent.agent.prompting import told_apart
from edgeagent.core.chat import Document


def test_documents_with_one_name_get_numbers_and_none_is_lost() -> None:
    given = [Document(source=name, text=f"{i}") for i, name in enumerate(["x", "x (2)", "x", "y", "x"])]
    apart = told_apart(given)
    assert [document.text for document in apart] == ["0", "1", "2", "3", "4"]
    assert [document.source for document in apart] == ["x", "x (2)", "x (3)", "y", "x (4)"]
