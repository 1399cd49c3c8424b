import pytest

from detpretrain.datasets.lidc_annotations import annotated_series, read_marks
from detpretrain.errors import InputError

MESSAGE = """<?xml version="1.0" encoding="UTF-8"?>
<LidcReadMessage uid="1.3.6.1.4.1.14519.5.2.1.6279.6001.1307390687803.0" xmlns="http://www.nih.gov"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://www.nih.gov http://x.xsd">
<ResponseHeader><Version>1.8.1</Version><MessageId>-421198203</MessageId><TaskDescription>Second unblinded read</TaskDescription>
<CtImageFile>removed</CtImageFile><SeriesInstanceUid>1.2.3</SeriesInstanceUid><StudyInstanceUID>1.2</StudyInstanceUID>
</ResponseHeader>
<readingSession><annotationVersion>3.12</annotationVersion><servicingRadiologistID>anonymous</servicingRadiologistID>
<unblindedReadNodule><noduleID>Nodule 001</noduleID><characteristics><subtlety>5</subtlety></characteristics>
<roi><imageZposition>-125.000000 </imageZposition><imageSOP_UID>1.2.3.4</imageSOP_UID><inclusion>TRUE</inclusion>
<edgeMap><xCoord>312</xCoord><yCoord>355</yCoord></edgeMap><edgeMap><xCoord>311</xCoord><yCoord>356</yCoord></edgeMap></roi>
<roi><imageZposition>-125.000000 </imageZposition><imageSOP_UID>1.2.3.4</imageSOP_UID><inclusion>FALSE</inclusion>
<edgeMap><xCoord>1</xCoord><yCoord>2</yCoord></edgeMap></roi></unblindedReadNodule>
<unblindedReadNodule><noduleID>Small</noduleID><roi><imageZposition>-130.0</imageZposition><imageSOP_UID>1.2.3.9</imageSOP_UID>
<inclusion>TRUE</inclusion><edgeMap><xCoord>5</xCoord><yCoord>6</yCoord></edgeMap></roi></unblindedReadNodule>
<nonNodule><nonNoduleID>2</nonNoduleID><imageZposition>-130.0</imageZposition><imageSOP_UID>1.2.3.9</imageSOP_UID>
<locus><xCoord>7</xCoord><yCoord>8</yCoord></locus></nonNodule></readingSession>
<readingSession><annotationVersion>3.12</annotationVersion><unblindedReadNodule><noduleID>IL057_1</noduleID>
<roi><imageSOP_UID>1.2.3.5</imageSOP_UID><inclusion>true</inclusion>
<edgeMap><xCoord>1</xCoord><yCoord>2</yCoord></edgeMap><edgeMap><xCoord>3</xCoord><yCoord>4</yCoord></edgeMap></roi>
</unblindedReadNodule></readingSession></LidcReadMessage>
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "069.xml"
        path.write_text(text)
        return path

    return written


def test_outlined_nodules_of_all_readers(write):
    path = write(MESSAGE)
    assert annotated_series(path) == "1.2.3"
    first, second = read_marks(path)  # the point below 3 mm and the non-nodule are not among them
    assert (first.reader, first.nodule, second.reader, second.nodule) == (1, "Nodule 001", 2, "IL057_1")
    outline, hole = first.contours
    assert (outline.image, outline.z, outline.inclusion, hole.inclusion) == ("1.2.3.4", -125.0, True, False)
    assert outline.points.tolist() == [[312, 355], [311, 356]]  # x, y
    assert second.contours[0].z is None


def test_the_other_name_of_the_series_and_no_namespace(write):
    text = MESSAGE.replace("SeriesInstanceUid", "CTSeriesInstanceUid").replace('xmlns="http://www.nih.gov"', "")
    path = write(text)
    assert annotated_series(path) == "1.2.3"
    assert len(read_marks(path)) == 2


def test_an_exclusion_alone_outlines_no_nodule(write):
    first = MESSAGE.index("<roi>")
    text = MESSAGE[:first] + MESSAGE[first:].replace("<inclusion>TRUE</inclusion>", "<inclusion>FALSE</inclusion>", 1)
    assert [mark.reader for mark in read_marks(write(text))] == [2]


@pytest.mark.parametrize(
    "text",
    [
        '<IdriReadMessage xmlns="http://www.nih.gov/idri"><ResponseHeader><CTSeriesInstanceUid>1.2.3</CTSeriesInstanceUid>'
        "</ResponseHeader><CXRreadingSession/></IdriReadMessage>",
        "<manifest/>",
    ],
)
def test_other_xml_annotates_no_ct(write, text):
    assert annotated_series(write(text)) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</LidcReadMessage>", "", "069.xml: not a readable XML file .*: download the annotation again"),
        ("<SeriesInstanceUid>1.2.3</SeriesInstanceUid>", "", "069.xml: names no SeriesInstanceUid: download"),
        ("readingSession>", "session>", "069.xml: no readingSession in it: download"),
    ],
)
def test_a_damaged_message_is_one_line(write, old, new, message):
    with pytest.raises(InputError, match=message):
        annotated_series(write(MESSAGE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "<inclusion>TRUE</inclusion>",
            "<inclusion/>",
            "reader 1, nodule Nodule 001: inclusion is '', not TRUE or FALSE",
        ),
        ("<xCoord>312</xCoord>", "<xCoord>31.5</xCoord>", "reader 1, nodule Nodule 001: .*31.5"),
        ("<xCoord>312</xCoord>", "", "reader 1, nodule Nodule 001: invalid literal"),
        ("-125.000000 <", "here<", "reader 1, nodule Nodule 001: .*here"),
        (
            "<edgeMap><xCoord>5</xCoord><yCoord>6</yCoord></edgeMap>",
            "",
            "reader 1, nodule Small: a roi without edgeMap",
        ),
    ],
)
def test_damaged_marks_are_named(write, old, new, message):
    path = write(MESSAGE.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        read_marks(path)
    assert str(path) in str(caught.value)
    assert "download the annotation again" in str(caught.value)
