"""The dashboard: which checkpoint is better, for whom, by how much, is it real, and why?

    streamlit run dashboard/app.py [-- --runs DIR]

One file per page. Pages call sagekit and lay out what it returns; they compute nothing. Streamlit imports this file when the
server starts, which loads torch and pandas before anybody waits for a page, and runs it again for every page that is shown.
"""

import streamlit as st
from streamlit.navigation.page import Page

from sagekit import plots  # noqa: F401 (loaded with the server)
from sagekit.runs import listing  # noqa: F401
from sagekit.studies import summary  # noqa: F401

PAGES = (("overview", "Overview"), ("compare", "Compare"), ("measures", "Measures"), ("images", "Images"),
         ("what_if", "What if"), ("embeddings", "Embeddings"), ("sweeps", "Sweeps"), ("training", "Training"),
         ("paper", "Paper"))


def show() -> None:
    import shared  # has caches, which want a running server

    st.set_page_config("sagekit", layout="wide", initial_sidebar_state=230)
    home, *others = [st.Page(f"{name}.py", title=title, url_path=name if place else "", default=not place)
                     for place, (name, title) in enumerate(PAGES)]
    page = st.navigation([home, *others, _address(home, PAGES[0][0])])
    with shared.errors_shown():
        shared.sidebar()
        page.run()


def _address(home: Page, name: str) -> Page:
    """A page of no title of its own that leads from /``name`` to ``home``: Streamlit's first page is at / alone."""

    def lead() -> None:
        st.switch_page(home, query_params={key: st.query_params.get_all(key) for key in st.query_params})

    return st.Page(lead, title=name, url_path=name, visibility="hidden")


if __name__ == "__main__":
    show()
else:
    app = st.App(__file__)
