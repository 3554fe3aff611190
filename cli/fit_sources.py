"""What ``hwnas fit --sources`` names: other devices' predictors, and columns of Parquet files."""

from typing import TYPE_CHECKING

from .common import UsageProblem
from .evaluate import columns, source_column

if TYPE_CHECKING:
    from ..predictors.transfer_sources import SourceCodes
    from ..spaces.space import SearchSpace


def read(
    text: str | None, features: str | None, space: "SearchSpace", space_option: str
) -> "tuple[tuple[SourceCodes, ...], list[str]]":
    """The sources, and what a user should know of them.

    Args:
        text: predictors as `load_predictor` takes them, or ``FILE:COLUMN``, separated by commas.
        features: names of the feature columns of these files.
        space_option: how the user named the space, for messages.

    Raises:
        HwnasError: one of them cannot be used.
    """
    from ..predictors.base import PredictorError
    from ..predictors.source_columns import SourceColumn, check_columns, read_source
    from ..predictors.source_predictors import predicted

    found, notes, files = [], [], []
    for item in columns(text or ""):
        given = source_column(item)
        if given is None:
            found.append(predicted(item, space, space_option=space_option))
        elif not features:
            raise UsageProblem(f"--sources {item}: a column of a file needs --features, its choices in order")
        else:
            files.append(SourceColumn(*given))
            check_columns(files, None)
            frame = read_source(files[-1], columns(features), space)
            found.append(frame.of_space)
            notes += frame.notes()
    names = [own.name for own in found]
    if len(set(names)) < len(names):
        raise PredictorError("a source is given twice")
    return tuple(found), notes
