"""What Airflow loads of the product: operators, connections, the timetable and the pool listener. Light at import."""
