"""The dashboard: which checkpoint is better, for whom, by how much, is it real, and why?

    streamlit run dashboard/app.py [-- --runs DIR]

One file per page. Pages call sagekit and lay out what it returns; they compute nothing. Streamlit imports this file when the
server starts, which loads torch and pandas before anybody waits for a page, and runs it again for every page that is shown.
"""

import streamlit as st

from sagekit import plots  # noqa: F401 (loaded with the server)
from sagekit.runs import listing  # noqa: F401
from sagekit.studies import summary  # noqa: F401

PAGES = (("overview", "Overview"), ("compare", "Compare"), ("images", "Images"), ("what_if", "What if"),
         ("embeddings", "Embeddings"), ("sweeps", "Sweeps"), ("training", "Training"), ("paper", "Paper"))


def show() -> None:
    import shared  # has caches, which want a running server

    st.set_page_config("sagekit", layout="wide", initial_sidebar_state=230)
    pages = [st.Page(f"{name}.py", title=title, url_path=name, default=name == "overview") for name, title in PAGES]
    page = st.navigation(pages)
    with shared.errors_shown():
        shared.sidebar()
        page.run()


if __name__ == "__main__":
    show()
else:
    app = st.App(__file__)
