"""PLACEHOLDER until the lowering's cache moves here."""
import hashlib, json, os
from pathlib import Path
class Cache:
    def __init__(self): self.root = Path(os.environ.get("HWNAS_CACHE") or Path.home()/".cache/hwnas")
    def _p(self, kind, id): return self.root/kind/hashlib.sha256(id.encode()).hexdigest()
    def get_json(self, kind, id):
        try: return json.loads(self._p(kind,id).read_text())
        except OSError: return None
    def put_json(self, kind, id, data):
        p=self._p(kind,id); p.parent.mkdir(parents=True,exist_ok=True); p.write_text(json.dumps(data))
