"""The gallery: a table with captions as a page that any browser shows, also from a folder.

``make`` puts it together; ``strips`` are its pictures, ``rows`` its data, ``page`` the page itself,
whose own parts lie beside these modules: ``page.html``, styles and scripts.
"""
