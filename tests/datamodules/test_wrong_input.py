import pickle

from datamodules.wrong_input import WrongInput


def test_is_one_line_with_what_where_and_mend():
    error = WrongInput("the response\nis empty", "pairs.jsonl:12", "drop the row,\n\t or fill it in")
    assert str(error) == "the response is empty (pairs.jsonl:12): drop the row, or fill it in"
    assert error.exit_code == 2


def test_survives_the_way_between_processes():
    back = pickle.loads(pickle.dumps(WrongInput("what", "where", "mend")))
    assert (back.what, back.where, back.mend) == ("what", "where", "mend")
    assert str(back) == "what (where): mend"
