"""What people look at: views, contact sheets, folders of renderings, cards, summaries."""
