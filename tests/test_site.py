"""What the documentation site is made from: docstrings of the public names, and the rewriting of them."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = re.findall(r"^::: (\S+)$", "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md")), re.M)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_class_and_function_has_a_docstring(package):
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    documented = {name: value for name, value in public.items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert documented
    # a dataclass without a docstring is given its signature for one
    lacking = [name for name, value in documented.items() if (value.__doc__ or f"{name}(").startswith(f"{name}(")]
    assert lacking == []


@pytest.fixture(scope="module")
def rewritten():
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs/_site/docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rewritten


def test_arguments_described_together_are_listed_one_by_one(rewritten):
    text = """One line.

    Args:
        t, r: times, ``[B]``,
            of the interval.
        x: data.
        *rest, **more: others.

    In the text, a: b.
    """
    assert (
        rewritten(text)
        == """One line.

    Args:
        t: times, ``[B]``,
            of the interval.
        r: times, ``[B]``,
            of the interval.
        x: data.
        *rest: others.
        **more: others.

    In the text, a: b.
    """
    )


def test_roles_become_code(rewritten):
    assert rewritten("See :class:`~rcgm.models.DiT` and :func:`rcgm.cli.main`.") == "See `DiT` and `rcgm.cli.main`."
