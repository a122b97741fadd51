from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jupyter_kernel_test
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ainet.notebook.markdown import to_html

SPEC = Path(__file__).parents[3] / "kernel" / "spec"
GREEDY = "--temperature 0 --max-tokens 8"


@pytest.fixture(scope="module", autouse=True)
def kernelspec(tmp_path_factory, node_dir):
    """The kernelspec where Jupyter finds it, and the node where the kernel finds it."""
    share = tmp_path_factory.mktemp("share")
    shutil.copytree(SPEC, share / "kernels" / "ainet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(share))
        patch.setenv("AINET_DATA_DIR", str(node_dir))
        patch.setenv("IPYTHONDIR", str(share / "ipython"))
        yield


class TestKernelMessages(jupyter_kernel_test.KernelTests):
    kernel_name = "ainet"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [{"text": "impor", "matches": {"import"}}, {"text": "%aine", "matches": {"%ainet", "%%ainet"}}]
    complete_code_samples = ["1", "print('x')", "%ainet status", "%%ainet ask\nhi\n\n"]
    incomplete_code_samples = ["print('x'", "def f():"]
    invalid_code_samples = ["import = 7q"]
    code_page_something = "%ainet?"
    code_generate_error = "1 / 0"
    code_execute_result = [{"code": "1+2+3", "result": "6"}]
    code_display_data = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))", "mime": "text/html"},
    ]
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    def test_history(self):
        """The suite's own wants the number of the running session in a range; IPython says 0 there."""
        code = "1+2+3"

        def history(**request):
            return self.history_helper([code], output=False, raw=True, **request)["content"]["history"]

        ((session, line, found),) = history(hist_access_type="tail", n=1)
        assert found == code
        in_range = history(hist_access_type="range", session=session, start=line, stop=line + 1)
        assert [entry[1:] for entry in in_range] == [[line, code]]
        assert len(history(hist_access_type="search", pattern="1?2*", unique=True)) == 1
        assert len(history(hist_access_type="search", pattern="1?2*", n=3)) == 3


@pytest.fixture(scope="module")
def kernel(kernelspec):
    manager, client = start_new_kernel(kernel_name="ainet")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel()


def notebook(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def execute(*cells: str, kernel: str = "ainet", **given) -> list[list[nbformat.NotebookNode]]:
    """Run a notebook as `jupyter execute` does; return the outputs of its cells."""
    book = notebook(*cells)
    NotebookClient(book, kernel_name=kernel, timeout=120, **given).execute()
    nbformat.validate(book)
    return [cell.outputs for cell in book.cells]


def test_an_answer_is_html_of_its_markdown_and_one_quiet_line():
    ((answer, footer), (printed,)) = execute(f"%%ainet ask {GREEDY} --to text\nName a colour.", "print(repr(text))")
    assert answer.data["text/plain"] == eval(printed.text)  # noqa: S307 - what the cell before printed
    assert answer.data["text/html"] == to_html(answer.data["text/plain"])
    assert footer.data["text/plain"].startswith("smollm2 · layers tester 0–29 · ")
    assert footer.data["text/html"] == f'<small style="opacity: 0.6">{footer.data["text/plain"]}</small>'


def test_the_plain_python_kernel_can_load_the_magics():
    ((), outputs) = execute("%load_ext ainet", f"%%ainet ask {GREEDY}\nName a colour.", kernel="python3")
    assert "text/html" in outputs[0].data


TYPED = """Why is 'it'  {blue}? And $HOME; 100%? !ls "x"?"""
ASKED = "get_ipython().magics_manager.registry['AinetMagics'].conversation[0].content"


@pytest.mark.parametrize("kernel", ["ainet", "python3"])
def test_a_question_in_a_line_is_no_request_for_help(kernel):
    *_, (asked,) = execute("%load_ext ainet", f"%ainet ask {GREEDY} {TYPED}", f"print({ASKED})", kernel=kernel)
    assert asked.text == f"{TYPED}\n"


def test_the_cell_that_loads_the_magics_may_ask(kernelspec):
    cell = (
        f"%load_ext ainet\n%ainet ask {GREEDY} Why is the sky blue?\nlen?\n%ainet ask {GREEDY} --to x And is it, blue?"
    )
    *outputs, (said,), shown = execute(cell, f"print({ASKED})", "len?", kernel="python3")
    assert said.text == "Why is the sky blue?\n"
    assert not [output for output in outputs[0] if "not found" in str(output)]
    assert shown == []  # help is a page of its own


def test_a_question_in_a_terminal_is_no_request_for_help():
    lines = f"%load_ext ainet\n%ainet ask {GREEDY} {TYPED}\nainet ask {GREEDY} --to x And?\nprint('<', {ASKED}, '>')\n"
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "--simple-prompt"]
    done = subprocess.run(command, check=False, input=lines, capture_output=True, text=True, timeout=120)
    assert f"< {TYPED} >" in done.stdout, done.stdout + done.stderr
    assert "not found" not in done.stdout


def test_loading_the_magics_again_says_nothing():
    assert execute("%load_ext ainet") == [[]]


def test_an_error_stops_the_notebook_and_is_one_line():
    with pytest.raises(CellExecutionError):
        execute("%%ainet ask --model no-such-model\nhi", "1 / 0")
    ((error,), _) = execute("%%ainet ask --model no-such-model\nhi", "1", allow_errors=True)
    assert error.ename == "NotFound"
    assert "no-such-model" in error.evalue
    assert error.traceback == [f"NotFound: {error.evalue}"]


def test_the_answer_grows_while_it_comes(kernel):
    _, client = kernel
    asked = client.execute("%%ainet ask --max-tokens 60 --temperature 0\nTell me about the sea.")
    texts, first = [], {}
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind in {"display_data", "update_display_data"} and "display_id" in content["transient"]:
            first = first or content["data"]
            texts.append((kind, content["transient"]["display_id"], content["data"]["text/plain"]))
        if kind == "status" and content["execution_state"] == "idle":
            break
    kinds = [kind for kind, _, _ in texts]
    assert kinds == ["display_data", *["update_display_data"] * (len(texts) - 1)]
    assert len({display for _, display, _ in texts}) == 1
    assert "asking the node" in first["text/html"]
    grown = [text for _, _, text in texts if text]
    assert len(set(grown)) > 2
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(grown))


def test_interrupting_the_kernel_stops_the_answer(kernel, tmp_path):
    manager, client = kernel
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text("root ::= [a-z ] root")
    asked = client.execute(f"%%ainet ask --max-tokens 3000 --grammar {grammar} --to kept\nTell me everything.")
    reply = None
    shown = ""
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind in {"display_data", "update_display_data"} and "display_id" in content["transient"]:
            if len(shown) < 20 <= len(content["data"]["text/plain"]):
                interrupted = time.monotonic()
                manager.interrupt_kernel()
            shown = content["data"]["text/plain"]
        elif kind == "error":
            reply = content
        elif kind == "status" and content["execution_state"] == "idle":
            break
    assert time.monotonic() - interrupted < 5
    assert reply["ename"] == "Stopped"
    assert reply["traceback"] == ["Stopped."]
    assert 20 <= len(shown) < 2000
    while client.get_shell_msg(timeout=10)["parent_header"]["msg_id"] != asked:
        pass
    asked = client.execute("kept", user_expressions={"kept": "kept"})
    while (message := client.get_shell_msg(timeout=10))["parent_header"]["msg_id"] != asked:
        pass
    assert eval(message["content"]["user_expressions"]["kept"]["data"]["text/plain"]) == shown  # noqa: S307


def test_a_dask_client_of_lent_workers():
    cells = (
        "client = %ainet client --workers 1",
        "print(client.submit(lambda x: x + 1, 41).result(timeout=60), client.scheduler.address.split(':')[0])",
        "client.close()",
    )
    outputs = execute(*cells)
    assert outputs[1][0].text == "42 tls\n"


def test_the_kernelspec_is_complete():
    spec = json.loads((SPEC / "kernel.json").read_text())
    assert spec["argv"] == ["python", "-m", "ainet_kernel", "-f", "{connection_file}"]
    assert spec["display_name"] == "ainet"
    for size in (32, 64):
        assert (SPEC / f"logo-{size}x{size}.png").read_bytes()[16:24] == size.to_bytes(4, "big") * 2
    assert (SPEC / "logo-svg.svg").read_text().startswith("<svg")
