"""The dashboard: which checkpoint is better, for whom, by how much, is it real, and why?

    streamlit run dashboard/app.py [-- --runs DIR]

One file per page. Pages call sagekit and lay out what it returns; they compute nothing.
"""

import shared
import streamlit as st

st.set_page_config("sagekit", layout="wide", initial_sidebar_state=230)
PAGES = (("overview", "Overview"), ("compare", "Compare"), ("images", "Images"), ("what_if", "What if"),
         ("embeddings", "Embeddings"), ("sweeps", "Sweeps"), ("training", "Training"), ("paper", "Paper"))
page = st.navigation([st.Page(f"{name}.py", title=title, url_path=name, default=name == "overview") for name, title in PAGES])
with shared.errors_shown():
    shared.sidebar()
    page.run()
