from pathlib import Path
from tests.app.edits import FEW, edit
def test_x(edit, capsys):
    edit("made", "editor=scale")
    few = [o for o in FEW if not o.startswith(("edit.source","edit.target"))]
    path = Path("made/patch.safetensors").resolve()
    edit("", "-m", f"edit.apply={path}", "editor=scale", few=few)
    edit("", "-m", f"edit.apply={path}", "editor=scale", "resume=runs/edit/now", few=few)
    print(capsys.readouterr().out[-300:])
