"""Files of every kind are read as biopython reads them; what is wrong is named by file, record and place."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.bio.alphabets import DNA, PROTEIN
from degauss.bio.sequences import Record, read_sequences, templates_of, tokens_of, write_fasta
from degauss.core.errors import InputError

WORD = st.text("abcXYZ019_.|", min_size=1, max_size=8)
RECORDS = st.lists(
    st.builds(
        Record,
        WORD,
        st.text("ACGT", min_size=1, max_size=150),
        st.lists(WORD, max_size=3).map(" ".join),
        st.dictionaries(WORD, WORD, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", ["x.fasta", "x.fa.gz", "x.txt"])
@settings(max_examples=25)
@given(records=RECORDS)
def test_fasta_comes_back(tmp_path_factory, name, records):
    path = tmp_path_factory.mktemp("fasta") / name
    write_fasta(path, records)
    assert read_sequences(path) == records


@settings(max_examples=25)
@given(records=RECORDS)
def test_biopython_reads_the_same(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("fasta") / "x.fasta"
    write_fasta(path, records)
    for ours, theirs in zip(records, SeqIO.parse(io.StringIO(path.read_text()), "fasta"), strict=True):
        assert (ours.name, ours.sequence) == (theirs.id, str(theirs.seq))
        words = theirs.description.split()[1:]
        assert words == [*ours.description.split(), *(f"{k}={v}" for k, v in ours.labels.items())]


def test_wrapped_lower_case_windows_fasta(here):
    Path("x.fna").write_bytes(b"\n>chr1 a first one\r\nacgt\r\nNNAC GT\r\n\r\n>b OS=Homo sapiens GN=ALB PE=1\nAC\n")
    first, second = read_sequences("x.fna")
    assert first == Record("chr1", "ACGTNNACGT", "a first one")
    assert second == Record("b", "AC", "OS=Homo sapiens", {"GN": "ALB", "PE": "1"})


def test_the_same_records_are_the_same_bytes(here):
    for name in ("a.fasta.gz", "b.fasta.gz"):
        write_fasta(name, [Record("a", "ACGT")])
    assert Path("a.fasta.gz").read_bytes() == Path("b.fasta.gz").read_bytes()
    assert gzip.decompress(Path("a.fasta.gz").read_bytes()) == b">a\nACGT\n"


def test_genbank_by_its_name_or_its_beginning(here):
    written = [
        SeqRecord(Seq("ATGGCC"), "AB1.1", "AB1", "a small gene", annotations={"molecule_type": "DNA"}),
        SeqRecord(Seq("TTTT"), "AB2.1", "AB2", "another", annotations={"molecule_type": "DNA"}),
    ]
    SeqIO.write(written, "x.gb", "genbank")
    Path("y.txt").write_text(Path("x.gb").read_text())
    expected = [Record("AB1.1", "ATGGCC", "a small gene"), Record("AB2.1", "TTTT", "another")]
    assert read_sequences("x.gb") == expected
    assert read_sequences("y.txt") == expected


def test_tables_and_plain_text(here):
    Path("x.csv").write_text("\ufeffID, Sequence ,cell type\nmy site,acgt,K562\n,TTTT,HepG2\n", encoding="utf-8")
    assert read_sequences("x.csv") == [
        Record("my_site", "ACGT", "", {"cell type": "K562"}),
        Record("2", "TTTT", "", {"cell type": "HepG2"}),
    ]
    with gzip.open("x.tsv.gz", "wt") as file:
        file.write("seq\texpr\nACGT\t1.5\n")
    assert read_sequences("x.tsv.gz") == [Record("1", "ACGT", "", {"expr": "1.5"})]
    Path("plain").write_text("ACGT\n\n  ttnn\n")
    assert read_sequences("plain") == [Record("1", "ACGT"), Record("3", "TTNN")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.fasta", b"", "x.fasta: is empty; expected sequences."),
        ("x.fasta", b"\n \n", "x.fasta: is empty; expected sequences."),
        ("x.fasta", b"ACGT\nACGT\n", "x.fasta: is no FASTA; it begins 'ACGT', expected a header that begins with '>'."),
        ("x.fa", b">a\nACGT\n>b\n>c\nA\n", "x.fa: record 'b' is empty; expected a sequence."),
        ("x.fa", b">a\nACGT\n>b\nAC1T\n", "x.fa: record 'b' has '1' at position 3, which is no letter of a sequence."),
        ("x.txt", b"hello, world\n", "x.txt: record '1' has ',' at position 6, which is no letter of a sequence."),
        ("x.csv", b"name,dna\na,ACGT\n", "x.csv: has no column 'sequence' or 'seq'; its columns are name, dna."),
        ("x.csv", b"name,seq\na,ACGT,3\n", "x.csv: line 2 has 3 fields; expected 2."),
        ("x.csv", b"name,seq\n", "x.csv: has a header, but no rows; expected sequences."),
        ("x.csv", b"name,seq\na,\n", "x.csv: record 'a' is empty; expected a sequence."),
        ("x.gb", b"ACGT\n", "x.gb: holds no GenBank record; expected one that begins with LOCUS."),
        ("x.fa", b"\xff\xfe>a", "x.fa: is no text (byte 1); expected a file of sequences."),
        ("x.fa.gz", gzip.compress(b">a\nACGT\n")[:-9], "x.fa.gz: cannot be read ("),
        ("x.fa.gz", b"\x1f\x8bnonsense", "x.fa.gz: cannot be read ("),
    ],
)
def test_what_cannot_be_read(here, name, content, message):
    Path(name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_sequences(name)
    assert str(error.value).startswith(message)


def test_what_is_not_there(here):
    with pytest.raises(InputError, match=r"^gone\.fasta: does not exist"):
        read_sequences("gone.fasta")
    with pytest.raises(InputError, match="is a directory"):
        read_sequences(here)


def test_a_genbank_record_without_its_sequence(here):
    record = SeqRecord(Seq(None, length=6), "AB1.1", "AB1", annotations={"molecule_type": "DNA"})
    SeqIO.write([record], "x.gb", "genbank")
    with pytest.raises(InputError, match=r"^x\.gb: GenBank record 1 has no sequence\.$"):
        read_sequences("x.gb")


def test_tokens_name_file_record_and_place():
    records = [Record("a", "ACGT"), Record("b", "ACNT")]
    with pytest.raises(InputError, match=r"^x\.fa: sequence 'b' has 'N' at position 3"):
        tokens_of("x.fa", records, DNA)
    with pytest.raises(InputError, match=r"^x\.fa: sequence 'b' has 2 letters, but sequence 'a' has 4"):
        tokens_of("x.fa", [records[0], Record("b", "AC")], DNA)
    assert templates_of("x.fa", records, DNA).tolist() == [[0, 1, 2, 3], [0, 1, -1, 3]]
    assert tokens_of("x.fa", [Record("a", "WY")], PROTEIN).tolist() == [[18, 19]]


@pytest.mark.parametrize("record", [Record("a b", "A"), Record("", "A"), Record("a", "A", "", {"k": "x y"})])
def test_a_header_holds_words(here, record):
    with pytest.raises(ValueError, match="header cannot hold"):
        write_fasta("x.fasta", [record])
    assert not Path("x.fasta").exists()
