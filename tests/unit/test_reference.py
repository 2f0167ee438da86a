from tests.docs import reference


def test_the_reference_is_what_the_code_says() -> None:
    for path, text in reference.files().items():
        assert path.read_text() == text, f"{path.name} is old: make reference"
