"""BibTeX of what this project cites, by hand; other forms of text; nothing is lost and every file parses."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detpretrain.build import build, locate
from detpretrain.datasets.prepare import RESERVED
from detpretrain.files import read_yaml
from detpretrain.report.bibliography import Work, bibtex, works
from detpretrain.report.page import TEMPLATE
from detpretrain.report.pretraining_section import Reference
from detpretrain.training import citations

CONFIG = TEMPLATE.parents[2] / "config"
CVPR = "Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition"
MICCAI = "Medical Image Computing and Computer Assisted Intervention - MICCAI"


def entry(kind, author, title, year, **fields):
    return kind, {"author": author, "title": f"{{{title}}}", "year": year, **fields}


def arxiv(author, title, year, eprint, **fields):
    return entry("misc", author, title, year, eprint=eprint, archivePrefix="arXiv", **fields)


METHODS = {
    "wald2025primus": arxiv(
        "Wald, T. and Roy, S. and Isensee, F. and Ulrich, C. and Ziegler, S. and Trofimova, D. and Stock, R. and Baumgartner, M. "
        "and Köhler, G. and Maier-Hein, K.",
        "Primus: Enforcing attention usage for 3D medical image segmentation", "2025", "2503.01835",
    ),
    "isensee2024nnu": entry(
        "inproceedings",
        "Isensee, F. and Wald, T. and Ulrich, C. and Baumgartner, M. and Roy, S. and Maier-Hein, K. and Jaeger, P. F.",
        "nnU-Net revisited: A call for rigorous validation in 3D medical image segmentation", "2024",
        booktitle=f"{MICCAI} 2024", pages="488--498", publisher="Springer",
    ),
    "baumgartner2021nndetection": entry(
        "inproceedings", "Baumgartner, M. and Jäger, P. F. and Isensee, F. and Maier-Hein, K. H.",
        "nnDetection: A self-configuring method for medical object detection", "2021",
        booktitle=f"{MICCAI} 2021", pages="530--539", publisher="Springer",
    ),
    "eckstein2025missing": entry(
        "inproceedings",
        "Eckstein, K. and Ulrich, C. and Baumgartner, M. and Kächele, J. and Bounias, D. and Wald, T. and Floca, R. and "
        "Maier-Hein, K. H.",
        "The missing piece: A case for pre-training in 3D medical object detection", "2025",
        booktitle=f"{MICCAI} 2025", publisher="Springer", doi="10.1007/978-3-032-04965-0_58",
    ),
    "he2022masked": entry(
        "inproceedings", "He, K. and Chen, X. and Xie, S. and Li, Y. and Dollár, P. and Girshick, R.",
        "Masked autoencoders are scalable vision learners", "2022", booktitle=CVPR, pages="16000--16009",
    ),
    "zhou2021models": entry(
        "article", "Zhou, Z. and Sodha, V. and Pang, J. and Gotway, M. B. and Liang, J.", "Models Genesis", "2021",
        journal="Medical Image Analysis", volume="67", pages="101840",
    ),
    "ulrich2023multitalent": entry(
        "inproceedings", "Ulrich, C. and Isensee, F. and Wald, T. and Zenk, M. and Baumgartner, M. and Maier-Hein, K. H.",
        "MultiTalent: A multi-dataset approach to medical image segmentation", "2023",
        booktitle=f"{MICCAI} 2023", pages="648--658", publisher="Springer",
    ),
    "wald2025revisiting": entry(
        "inproceedings",
        "Wald, T. and Ulrich, C. and Lukyanenko, S. and Goncharov, A. and Paderno, A. and Miller, M. and Maerkisch, L. and "
        "Jaeger, P. and Maier-Hein, K.",
        "Revisiting MAE pre-training for 3D medical image segmentation", "2025", booktitle=CVPR, pages="5186--5196",
    ),
    "tian2023designing": entry(
        "inproceedings", "Tian, K. and Jiang, Y. and Diao, Q. and Lin, C. and Wang, L. and Yuan, Z.",
        "Designing BERT for convolutional networks: Sparse and hierarchical masked modeling", "2023",
        booktitle="International Conference on Learning Representations",
    ),
    "wu2024voco": entry(
        "inproceedings", "Wu, L. and Zhuang, J. and Chen, H.",
        "VoCo: A simple-yet-effective volume contrastive learning framework for 3D medical image analysis", "2024",
        booktitle=CVPR, pages="22873--22882",
    ),
}  # fmt: skip
DATASETS = {
    "armato2011lung": entry(
        "article", "Armato and others",
        "The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI): a completed reference database "
        "of lung nodules on CT scans", "2011", journal="Medical Physics", volume="38", note="data set lidc",
    ),
    "setio2017validation": entry(
        "article", "Setio, A. A. A. and Traverso, A. and de Bel, T. and others",
        "Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules in computed "
        "tomography images: the LUNA16 challenge", "2017",
        journal="Medical Image Analysis", volume="42", note=r"data sets luna16, luna16\_811",
    ),
    "mei2022sanet": entry(
        "article", "Mei, J. and Cheng, M. M. and Xu, G. and Wan, L. R. and Zhang, H.",
        "SANet: a slice-aware network for pulmonary nodule detection", "2022",
        journal="IEEE Transactions on Pattern Analysis and Machine Intelligence", volume="44", number="8", note="data set pn9",
    ),
    "simpson2019large": arxiv(
        "Simpson and others",
        "A large annotated medical image dataset for the development and evaluation of segmentation algorithms", "2019",
        "1902.09063", note=r"data set msd\_pancreas",
    ),
    "antonelli2022medical": entry(
        "article", "Antonelli and others", "The Medical Segmentation Decathlon", "2022",
        journal="Nature Communications", volume="13", note=r"data set msd\_pancreas",
    ),
    "jin2020deep": entry(
        "article", "Jin and others",
        "Deep-learning-assisted detection and segmentation of rib fractures from CT scans: Development and validation of FracNet",
        "2020", journal="EBioMedicine", volume="62", note="data set ribfrac",
    ),
    "heller2023kits21": arxiv(
        "Heller and others",
        "The KiTS21 Challenge: Automatic segmentation of kidneys, renal tumors, and renal cysts in corticomedullary-phase CT",
        "2023", "2307.01984", note="data set kits21",
    ),
    "saha2018machine": entry(
        "article", "Saha and others",
        "A machine learning approach to radiogenomics of breast cancer: a study of 922 subjects and 529 DCE-MRI features",
        "2018", journal="British Journal of Cancer", volume="119", note=r"data set duke\_breast",
    ),
    "bo2021toward": entry(
        "article", "Bo and others",
        "Toward human intervention-free clinical diagnosis of intracranial aneurysm via deep neural network", "2021",
        journal="Patterns", volume="2", note=r"data set cta\_a",
    ),
    "hamamci2024developing": arxiv(
        "Hamamci and others",
        "Developing Generalist Foundation Models from a Multimodal Dataset for 3D Computed Tomography", "2024", "2403.17834",
        note=r"data set ct\_rate",
    ),
    "wald2024openmind": arxiv(
        "Wald and others", "An OpenMind for 3D medical vision self-supervised learning", "2024", "2412.17041",
        note="data set openmind",
    ),
    "casey2018adolescent": entry(
        "article", "Casey and others",
        "The Adolescent Brain Cognitive Development (ABCD) study: Imaging acquisition across 21 sites", "2018",
        journal="Developmental Cognitive Neuroscience", volume="32", note="data set abcd",
    ),
}  # fmt: skip
FOREIGN = {  # text -> the fields that matter, of forms that checkpoints from elsewhere carry
    "Isensee, F., Jaeger, P. F., & Maier-Hein, K. H. (2021). nnU-Net: a method. Nature methods, 18(2), 203–211.": {
        "journal": "Nature methods", "volume": "18", "number": "2", "pages": "203--211",
    },
    "Jaeger, P. F., Kohl, S. A., ... & Maier-Hein, K. H. (2020, April). Retina U-Net. In Machine Learning for Health (Vol. 9, "
    "pp. 171-183). PMLR.": {
        "author": "Jaeger, P. F. and Kohl, S. A. and Maier-Hein, K. H. and others", "volume": "9", "pages": "171--183",
        "booktitle": "Machine Learning for Health", "publisher": "PMLR", "note": "April",
    },
    "Smith, J.-P., Jr., et al. (2019a). Does it help? Nature, 3, e12.": {
        "author": "Smith, Jr., J.-P. and others", "title": "{Does it help?}", "journal": "Nature", "pages": "e12",
    },
    "ABCD Consortium. (2018). Data. Retrieved from https://a.org/x_y#1.": {
        "author": "{ABCD Consortium}", "title": "{Data}", "url": "https://a.org/x_y#1",
    },
    "He, K. (2022). MAE vs. BERT. arXiv preprint arXiv:2111.06377v2 [cs.CV]. https://doi.org/10.48550/arXiv.2111.06377": {
        "title": "{MAE vs. BERT}", "eprint": "2111.06377v2", "primaryClass": "cs.CV", "doi": "10.48550/arXiv.2111.06377",
    },
    # which full stop ends the title, what is a volume, who is an editor: not told for certain
    "Wu, L. (2024). Part one. Part two. IEEE Trans. Med. Imaging, 3, 1-2.": {
        "title": "{Part one}", "howpublished": "Part two. IEEE Trans. Med. Imaging, 3, 1-2",
    },
    "Wu et al., Title, with a comma, MICCAI 2020, 2020": {"title": "{Title, with a comma}", "howpublished": "MICCAI 2020"},
    "Wu, L. (2024). Title. In A. Bee (Ed.), Book (pp. 1-2). ACM.": {"howpublished": "In A. Bee (Ed.), Book (pp. 1-2). ACM"},
    "Smith and Jones, Own scans, hospital archive, 2020.": {"author": "Smith and Jones", "howpublished": "hospital archive"},
}  # fmt: skip
ODD = [
    "Somebody (2022).",
    "Please cite the page of the group, https://example.org, 2022",
    "Wald, Tassilo, & Roy, Saikat (2025). Full given names. Nature, 1, 2-3.",
    "We thank the organisers of the challenge (2022). It was fun.",
    "He, K. (2022). .",
]


def parse(text):
    """Key -> (kind, fields). Braces count as BibTeX counts them: those behind a backslash, too."""
    found, position = {}, 0
    while position < len(text):
        head = re.compile(r"\n?@([a-z]+)\{([a-z0-9]+),\n").match(text, position)
        assert head, text[position:]
        fields, position = {}, head.end()
        while not text.startswith("}\n", position):
            name = re.compile(r"  ([a-zA-Z]+) = \{").match(text, position)
            assert name, text[position:]
            depth, start, position = 1, name.end(), name.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[position], 0)
                position += 1
            assert name[1] not in fields
            fields[name[1]] = text[start : position - 1]
            assert text.startswith(",\n", position)
            position += 2
        assert head[2] not in found
        found[head[2]] = (head[1], fields)
        position += 2
    return found


def only(text, **users):
    ((kind, fields),) = parse(bibtex([Work(text, **users)])).values()
    return kind, fields


def words(text):
    return set(re.findall(r"[^\W_]{3,}", text)) - {"https", "doi", "org", "arXiv", "preprint", "and"}


@pytest.fixture(scope="module")
def of_methods():
    checkpoints = [*citations.ARCHITECTURES.values(), citations.FRAMEWORK]
    texts = [text for citation in checkpoints for text in citation["apa_citations"]]
    for method in read_yaml(CONFIG / "methods.yaml").values():
        texts += [text for citation in locate(method["class"]).citations for text in citation.apa_citations]
    return texts


@pytest.fixture(scope="module")
def of_datasets():
    found = {}
    for name, dataset in read_yaml(CONFIG / "datasets.yaml").items():
        made = build({key: value for key, value in dataset.items() if key not in RESERVED})
        if hasattr(made, "published"):
            found[name] = made.published.citation
    return found


def test_what_checkpoints_of_this_project_cite(of_methods):
    found = parse(bibtex([Work(text) for text in of_methods]))
    assert {key: found.get(key) for key in METHODS} == METHODS


def test_what_data_sets_cite(of_datasets):
    found = parse(bibtex(works([], of_datasets)))
    assert {key: found.get(key) for key in DATASETS} == DATASETS


def test_every_text_of_this_project_is_understood_and_no_word_of_it_lost(of_methods, of_datasets):
    for text in [*of_methods, *of_datasets.values()]:
        written = bibtex([Work(text)])
        assert all({"author", "title", "year"} <= fields.keys() for _, fields in parse(written).values()), text
        assert words(text) <= words(written) | {"Setio", "AAA"}, text


@pytest.mark.parametrize("text", FOREIGN)
def test_other_forms(text):
    _, fields = only(text)
    assert {name: fields.get(name) for name in FOREIGN[text]} == FOREIGN[text]
    assert words(text) <= words(str(fields)) | {"Vol", "Retrieved", "from", "2019a"}


@pytest.mark.parametrize("text", ODD)
def test_a_text_in_no_known_form_is_kept_whole(text):
    assert only(text, inits=("mae",)) == ("misc", {"note": f"{{{text}}}".replace("&", r"\&"), "annote": "used by: mae"})


def test_bytes_of_an_entry_and_its_users():
    text = "He, K., & Chen, X. (2022). MAE & more. In Proceedings of X_Y (pp. 1–2)."
    users = [
        Work(text, inits=("voco", "s3d")),
        Work(f" {text}\n", datasets=("d_1",)),
        Work(text, ("mae", "voco"), ("a",)),
    ]
    assert bibtex(users) == (
        "@inproceedings{he2022mae,\n"
        "  author = {He, K. and Chen, X.},\n"
        "  title = {{MAE \\& more}},\n"
        "  booktitle = {Proceedings of X\\_Y},\n"
        "  pages = {1--2},\n"
        "  year = {2022},\n"
        "  note = {used by: mae, s3d, voco; data sets a, d\\_1},\n"
        "}\n"
    )


def test_order_of_the_works_does_not_matter():
    texts = ["Wu et al., B, Nature 1, 2020", "He, K. (2022). A. Nature, 1, 2.", "odd", "Wu et al., B, Nature 2, 2020"]
    made = [bibtex([Work(text, (text[:2],)) for text in order]) for order in (texts, texts[::-1], texts + texts)]
    assert made[0] == made[1] == made[2]
    assert list(parse(made[0])) == ["he2022", "odd", "wu2020ba", "wu2020bb"]


def test_nothing_to_cite_gives_no_entry():
    assert bibtex([]) == bibtex([Work("", datasets=("own",)), Work(" \n")]) == ""


def test_equal_keys_get_letters_that_no_other_work_has():
    texts = [f"Wu et al., Deep {word}, Nature 3, 2020" for word in ("x", "y")]
    taken = "Wu et al., Deepa, Nature 3, 2020"
    found = parse(bibtex(map(Work, [taken, *texts])))
    titles = {key: fields["title"] for key, (_, fields) in found.items()}
    assert titles == {"wu2020deepa": "{Deepa}", "wu2020deepb": "{Deep x}", "wu2020deepc": "{Deep y}"}


def test_special_characters():
    _, fields = only(r"Wu et al., 5 % of $x_1$ & #2 {a} ~ ^ \b, Nature 3, 2020", datasets=("a&b",))
    assert fields["title"] == (
        r"{5 \% of \$x\_1\$ \& \#2 \textbraceleft{}a\textbraceright{} \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{}b}"
    )
    assert fields["note"] == r"data set a\&b"
    assert only("a lone { brace")[1]["note"] == r"{a lone \textbraceleft{} brace}"
    assert only("not\x00 in\ud800 a file")[1]["note"] == "{not in a file}"


def test_addresses_are_not_escaped_but_their_braces():
    text = "Wu, L. (2020). Title. Nature, 3, 1. https://a.org/x_y%20{z}?b=1&c#d"
    assert only(text)[1]["url"] == "https://a.org/x_y%20%7Bz%7D?b=1&c#d"
    assert only("Wu, L. (2020). Title. Nature, 3, 1. doi:10.1/a_b(1)")[1]["doi"] == "10.1/a_b(1)"


def test_letters_stay_in_names_and_leave_the_keys():
    found = parse(bibtex([Work("Großmann, Ł., & Øre, Å. (2020). Über Lungen. Nature, 3, 1.")]))
    assert found["grossmann2020uber"][1]["author"] == "Großmann, Ł. and Øre, Å."


def test_works_of_references_and_data_sets():
    reference = Reference("Pretraining Method", "S3D", ("first", "second"), ("s3d", "s3d_b"))
    inits = ("s3d", "s3d_b")
    assert works([reference], {"lidc": "third"}) == [
        Work("first", inits), Work("second", inits), Work("third", (), ("lidc",)),
    ]  # fmt: skip


PIECES = [
    "He, K.",
    "et al.",
    "(2022).",
    ". ",
    ", ",
    "In ",
    "(pp. 1-2)",
    " & ",
    "2020",
    "arXiv:2401.00001",
    "https://a.b/{",
    "; ",
]


@settings(max_examples=50)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=12).map("".join))
def test_any_text_gives_a_file_that_parses(text):
    made = bibtex([Work(text, ("mae",), ("d",)), Work("He, K. (2022). A title.")])
    made.encode("utf-8")
    assert parse(made)
