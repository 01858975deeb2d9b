"""CSV is what PostgreSQL writes; tests/integration/cli/test_contents.py compares it with a server's."""

import pytest

from airflow_pg_s3.cli.csv_text import CsvText

TEXT = b'1\t\\N\tplain\n2\t\tsay "hi", you\n3\t\\\\.\tline\\nbreak\\ttab\\\\back\n'
CSV = b'1,,plain\n2,"","say ""hi"", you"\n3,\\.,"line\nbreak\ttab\\back"\n'


@pytest.mark.parametrize("step", [1, 2, 7, len(TEXT)])
def test_pieces_may_end_anywhere(step):
    written = bytearray()
    csv = CsvText(written.extend, [b"a", b"b", b'c "d"'])
    csv.write_header()
    for start in range(0, len(TEXT), step):
        csv.write(TEXT[start : start + step])
    assert bytes(written) == b'a,b,"c ""d"""\n' + CSV


@pytest.mark.parametrize(
    ("columns", "text", "csv"), [([], b"\n\n", b"\n\n"), ([b"a"], b"\\\\.\n\n\\N\n", b'"\\."\n""\n\n')]
)
def test_rows_of_no_column_or_one(columns, text, csv):
    written = bytearray()
    CsvText(written.extend, columns).write(text)
    assert bytes(written) == csv
